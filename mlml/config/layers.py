"""The activations, norms and initialisers that can be declared, and their numbers."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from mlml.config.declared import OR_NAME, BelowOne, Declared


class PlainActivation(Declared):
    """An activation without numbers, or none; "step" is 1 from 0 on, and lets no gradient through."""

    name: Literal["none", "step", "sigmoid", "tanh", "relu", "softmax"]


class LeakyReLUActivation(Declared):
    """Leaky ReLU (Maas et al. 2013, "Rectifier nonlinearities improve neural network acoustic models")."""

    name: Literal["leaky_relu"]
    negative_slope: BelowOne = 0.01


class PReLUActivation(Declared):
    """PReLU, whose slope is learnt, one for the layer (He et al. 2015, arXiv:1502.01852, Eq. 1)."""

    name: Literal["prelu"]
    initial_slope: float = 0.25


class ELUActivation(Declared):
    """ELU (Clevert et al. 2016, arXiv:1511.07289, Eq. 15)."""

    name: Literal["elu"]
    alpha: PositiveFloat = 1.0


class GELUActivation(Declared):
    """GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2); "tanh" is the paper's approximation."""

    name: Literal["gelu"]
    approximate: Literal["none", "tanh"] = "none"


class SwishActivation(Declared):
    """Swish, x sigmoid(beta x) (Ramachandran et al. 2017, arXiv:1710.05941, section 3).

    Attributes:
        trainable: learn beta, one for the layer.
    """

    name: Literal["swish"]
    beta: PositiveFloat = 1.0
    trainable: bool = False


ActivationConfig = Annotated[
    PlainActivation | LeakyReLUActivation | PReLUActivation | ELUActivation | GELUActivation | SwishActivation,
    Field(discriminator="name"),
    OR_NAME,
]
"""Field type of an activation: a name, or a mapping with the name and its numbers."""


class PlainNorm(Declared):
    """A norm without numbers, or none; a layer norm of images is over channels and pixels.

    Batch norm: Ioffe & Szegedy 2015, arXiv:1502.03167; layer norm: Ba et al. 2016, arXiv:1607.06450; instance norm:
    Ulyanov et al. 2016, arXiv:1607.08022.
    """

    name: Literal["none", "batch", "layer", "instance"]


class GroupNormConfig(Declared):
    """Group norm (Wu & He 2018, arXiv:1803.08494)."""

    name: Literal["group"]
    num_groups: PositiveInt = 8


NormConfig = Annotated[PlainNorm | GroupNormConfig, Field(discriminator="name"), OR_NAME]
"""Field type of a norm: a name, or a mapping with the name and its numbers."""


class PlainInitialiser(Declared):
    """Initial weights without numbers.

    Xavier's (Glorot & Bengio 2010, Eq. 16 and, as a normal distribution, Eq. 12), He's for ReLU (He et al. 2015,
    arXiv:1502.01852, Eq. 10, by the fan-in), or all zero.
    """

    name: Literal["zero", "xavier_uniform", "xavier_normal", "he_uniform", "he_normal"]


class ConstantInitialiser(Declared):
    """All weights the same."""

    name: Literal["constant"]
    value: float = 0.1


class NormalInitialiser(Declared):
    """The naive choice: a normal distribution whose width knows nothing of the layer's."""

    name: Literal["normal"]
    std: PositiveFloat = 0.01


class OrthogonalInitialiser(Declared):
    """Orthogonal rows or columns (Saxe et al. 2014, arXiv:1312.6120), times `gain`."""

    name: Literal["orthogonal"]
    gain: PositiveFloat = 1.0


InitialiserConfig = Annotated[
    PlainInitialiser | ConstantInitialiser | NormalInitialiser | OrthogonalInitialiser,
    Field(discriminator="name"),
    OR_NAME,
]
"""Field type of an initialiser: a name, or a mapping with the name and its numbers."""
