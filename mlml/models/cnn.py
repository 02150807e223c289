"""A small convolutional network, fit for two CPU cores."""

from typing import Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from mlml import activations
from mlml.config import ActivationConfig, NetworkConfig, NormConfig, PlainActivation, PlainNorm
from mlml.data.dataset import DataSpec
from mlml.layers import norm
from mlml.layers.memory import channels_last
from mlml.models._network import Network, halved

LAYERS = 3
"""Of a stage: convolution, norm and activation."""


class CNN(Network):
    """Stages of 3x3 convolution, norm and activation, then the mean over the grid.

    Each stage after the first halves the image and doubles the width, so that all cost about the same. The features
    are `width` * 2 ** (`num_stages` - 1) wide.

    Raises:
        ValueError: the image is too small for so many stages, or the norm does not fit one.
    """

    class Config(NetworkConfig):
        """Numbers of the network."""

        network: Literal["cnn"] = "cnn"
        width: PositiveInt = 32
        num_stages: PositiveInt = 4
        activation: ActivationConfig = PlainActivation(name="relu")
        norm: NormConfig = PlainNorm(name="batch")

        @property
        def num_grids(self) -> int:
            return self.num_stages

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        _refuse_small(config, self.image_size)
        before = spec.channels
        layers: list[nn.Module] = []
        for stage in range(config.num_stages):
            after = config.width * 2**stage
            stride = 1 if stage == 0 else 2
            bias = not norm.has_bias(config.norm)
            layers += [
                nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=bias),
                norm.build(config.norm, after, True, f"cnn: stage {stage + 1}"),
                activations.build(config.activation),
            ]
            before = after
        self.stages = nn.Sequential(*layers)
        self.feature_dim = before

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        grid: Tensor = self.stages(channels_last(self.normalize(images)))  # (b, d, h_s, w_s)
        return grid.mean((2, 3))

    def grids(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b c_s h_s w_s"]]:
        """What each stage leaves, after its activation."""
        grid, found = channels_last(self.normalize(images)), []
        for number, layer in enumerate(self.stages, 1):
            grid = layer(grid)
            if number % LAYERS == 0:
                found.append(grid)
        return found

    def nearest_size(self, size: tuple[int, int]) -> tuple[int, int]:
        try:
            _refuse_small(self.config, size)
        except ValueError:
            return self.image_size
        return size


def _refuse_small(config: CNN.Config, size: tuple[int, int]) -> None:
    """Refuse images that a stage cannot halve, or an instance norm of one pixel."""
    for stage in range(config.num_stages):
        if stage > 0:
            size = halved(f"cnn: stage {stage + 1}", size, f"lower num_stages to {stage} or prepare larger images")
        if config.norm.name == "instance" and size == (1, 1):
            raise ValueError(
                f"cnn: stage {stage + 1}: an instance norm needs more than one pixel; got 1x1; "
                f"lower num_stages to {stage} or prepare larger images"
            )
