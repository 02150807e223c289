"""No network: the features are the pixels. With a linear layer on top it is the perceptron, or linear regression."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from mlml.config import NetworkConfig
from mlml.data.dataset import DataSpec
from mlml.models._network import Network


class Pixels(Network):
    """The normalised pixels in a row."""

    class Config(NetworkConfig):
        """There are no numbers."""

        network: Literal["pixels"] = "pixels"

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.feature_dim = spec.channels * spec.height * spec.width

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        features: Tensor = self.normalize(images).flatten(1)
        return features
