"""What autoencoders of features have in common."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from mlml.config.composed import ComposedConfig
from mlml.config.variational import VariationalConfig


class PerceptualConfig(VariationalConfig, ComposedConfig):
    """Numbers of an autoencoder whose decoder is to make what a trained classifier sees as the image.

    Attributes:
        pixel_weight: of minus the log likelihood of the pixels.
        feature_weight: of the distance of features.
        layers: stages of the base's encoder that are compared, counted from 1: the stages of a `cnn` or a `resnet`, the
            convolutions of a `convnet`; null: all.
        normalise: whether the distance is that of Zhang et al. 2018, of directions of features.
    """

    pixel_weight: NonNegativeFloat = 0.0
    feature_weight: PositiveFloat = 100.0
    layers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    normalise: bool = False
    likelihood: Literal["bernoulli", "gaussian"] = "gaussian"

    @field_validator("layers")
    @classmethod
    def _different(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and len(set(layers)) < len(layers):
            raise ValueError(f"must be different from each other; got {list(layers)}")
        return layers

    def misfit(self, base: Any) -> str | None:
        network, count = base.encoder.network, base.encoder.num_grids
        if count == 0:
            return (
                f"base: its encoder is of {network!r}, which has no stages of convolutions to compare; take one of "
                "'cnn', 'convnet' and 'resnet'"
            )
        beyond = [layer for layer in self.layers or () if layer > count]
        if beyond:
            return f"layers: the base's encoder, of {network!r}, has the stages 1 to {count}; got {beyond[0]}"
        return None
