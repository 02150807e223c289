"""What variational autoencoders have in common."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt

from mlml.config.data import ShiftFlipConfig
from mlml.config.declared import Declared, Probability
from mlml.config.network import EncoderConfig
from mlml.config.train import TrainConfig


class VariationalConfig(Declared):
    """Numbers of a variational autoencoder.

    Attributes:
        kl_warmup: share of the run over which the weight of the KL term rises from 0 to `beta`; evaluations use `beta`
            all along.
    """

    encoder: EncoderConfig
    train: TrainConfig
    latent_dim: PositiveInt = 16
    decoder_width: PositiveInt = 32
    beta: NonNegativeFloat = 1.0
    kl_warmup: Probability = 0.0
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    augment: ShiftFlipConfig = ShiftFlipConfig(padding=0, flip_prob=0.0)
