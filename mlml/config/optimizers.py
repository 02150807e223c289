"""The optimizers that can be declared, and their numbers."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from mlml.config.declared import BelowOne, Declared, unless_named


class SGDConfig(Declared):
    """Stochastic gradient descent, with momentum."""

    name: Literal["sgd"] = "sgd"
    learning_rate: PositiveFloat = 0.1
    momentum: BelowOne = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0


class AdamConfig(Declared):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980); the weight decay is L2, added to the gradient."""

    name: Literal["adam"] = "adam"
    learning_rate: PositiveFloat = 1e-3
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    weight_decay: NonNegativeFloat = 0.0


class AdamWConfig(Declared):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101); the weight decay is decoupled from the gradient."""

    name: Literal["adamw"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    weight_decay: NonNegativeFloat = 0.01


class AdaGradConfig(Declared):
    """AdaGrad (Duchi et al. 2011, JMLR 12, Fig. 1, diagonal); the weight decay is L2, added to the gradient."""

    name: Literal["adagrad"] = "adagrad"
    learning_rate: PositiveFloat = 0.01
    epsilon: PositiveFloat = 1e-10
    weight_decay: NonNegativeFloat = 0.0


class RMSPropConfig(Declared):
    """RMSProp (Tieleman & Hinton 2012, Coursera lecture 6e); the weight decay is L2, added to the gradient.

    Attributes:
        decay: of the running mean of squared gradients.
        centered: subtract the square of the running mean gradient (Graves 2013, arXiv:1308.0850, Eq. 40).
    """

    name: Literal["rmsprop"] = "rmsprop"
    learning_rate: PositiveFloat = 1e-3
    decay: BelowOne = 0.99
    momentum: BelowOne = 0.0
    centered: bool = False
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0


class LARSConfig(Declared):
    """LARS (You et al. 2017, arXiv:1708.03888)."""

    name: Literal["lars"] = "lars"
    learning_rate: PositiveFloat = 1.0
    momentum: BelowOne = 0.9
    trust_coefficient: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-6


OptimizerConfig = Annotated[
    SGDConfig | AdaGradConfig | RMSPropConfig | AdamConfig | AdamWConfig | LARSConfig,
    Field(discriminator="name"),
    unless_named("adamw"),
]
"""Field type of the optimizer: by its name, which is AdamW's where none is given."""
