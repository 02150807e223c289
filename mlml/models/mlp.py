"""Multilayer perceptron over the pixels."""

from itertools import pairwise
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from mlml import activations
from mlml.config import ActivationConfig, BelowOne, NetworkConfig, NormConfig, PlainActivation, PlainNorm
from mlml.data.dataset import DataSpec
from mlml.layers import norm
from mlml.models._network import Network


class MLP(Network):
    """Hidden layers of linear map, norm, activation and dropout. The features are the last hidden layer.

    Raises:
        ValueError: the norm does not fit a layer.
    """

    class Config(NetworkConfig):
        """Numbers of the perceptron."""

        network: Literal["mlp"] = "mlp"
        hidden_widths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (512, 256)
        activation: ActivationConfig = PlainActivation(name="relu")
        norm: NormConfig = PlainNorm(name="batch")
        dropout_prob: BelowOne = 0.0

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        widths = [spec.channels * spec.height * spec.width, *config.hidden_widths]
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths), 1):
            layers.append(nn.Linear(before, after, bias=not norm.has_bias(config.norm)))
            if config.norm.name != "none":
                layers.append(norm.build(config.norm, after, False, f"mlp: hidden layer {number}"))
            layers.append(activations.build(config.activation))
            if config.dropout_prob > 0:
                layers.append(nn.Dropout(config.dropout_prob))
        self.layers = nn.Sequential(*layers)
        self.feature_dim = widths[-1]

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        features: Tensor = self.layers(self.normalize(images).flatten(1))
        return features
