"""The random encoder: the lower baseline of the probes. Nothing is trained."""

from jaxtyping import Float
from torch import Tensor

from mlml import models
from mlml.config import Declared, EncoderConfig
from mlml.data.dataset import DataSpec
from mlml.method import Method


class Random(Method):
    """An encoder as it is initialised; what a pretext has to beat."""

    class Config(Declared):
        """The encoder; give it the one that the compared methods have."""

        encoder: EncoderConfig

    phases = ()
    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]."""
        features: Tensor = self.encoder(images)
        return features
