"""What every network of this folder is."""

from typing import Any, ClassVar, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from mlml.config import NetworkConfig
from mlml.data.dataset import DataSpec
from mlml.layers.normalize import Normalize


class Network(nn.Module):
    """A map from plain images to features; it normalises them itself.

    Attributes:
        feature_dim: width of the features.
        image_size: height and width of the images that it was built for.
        normalize: the first layer, by the statistics of the train images.
    """

    Config: ClassVar[type[NetworkConfig]]
    feature_dim: int

    def __init__(self, config: Any, spec: DataSpec) -> None:
        super().__init__()
        self.config = config
        self.image_size = (spec.height, spec.width)
        self.normalize = Normalize(spec.mean, spec.std)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]."""
        raise NotImplementedError

    def nearest_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width nearest to `size` of images that it takes, such as small crops.

        A network whose weights belong to single pixels takes one size only, `image_size`.
        """
        return self.image_size


class Dense(Protocol):
    """A network that also tells something of every pixel; its class says so by `is_dense = True`.

    Attributes:
        dense_dim: width of the features of a pixel. Reading it raises ValueError where the network as declared does not
            end with a grid of the image's size.
    """

    @property
    def dense_dim(self) -> int: ...

    def dense(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Features of every pixel of images in [0, 1]."""
        ...


class Grids(Protocol):
    """A network whose stages of convolutions can be looked at one by one; its `Config` has as many `num_grids`."""

    def grids(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b c_s h_s w_s"]]:
        """What each stage s leaves for images in [0, 1], the first stage first."""
        ...


class Tokens(Protocol):
    """A network that also runs on some patches of an image; its class says so by `has_tokens = True`.

    Attributes:
        positions: one for each class token, then for each patch, row by row, (1, t, d).
        num_class_tokens: how many tokens stand before those of the patches.
        config: has the numbers `patch_size`, `dim`, `depth`, `num_heads` and `mlp_ratio` of a vision transformer.
    """

    positions: nn.Parameter
    config: Any

    @property
    def num_class_tokens(self) -> int: ...

    def tokens(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Tokens of all patches of images in [0, 1], row by row: each of its patch alone, plus its position."""
        ...

    def encode_tokens(self, tokens: Float[Tensor, "b m d"]) -> Float[Tensor, "b t d"]:
        """Features of some of these tokens, those of the class tokens first."""
        ...


def halved(layer: str, size: tuple[int, int], way_out: str) -> tuple[int, int]:
    """Return the size after a layer of stride 2 with the padding that keeps every pixel.

    Args:
        layer: its name, the beginning of the error sentence.
        size: height and width before the layer.
        way_out: the end of the error sentence.

    Raises:
        ValueError: a side is 1 and cannot be halved.
    """
    height, width = size
    if min(size) < 2:
        raise ValueError(f"{layer}: its input must be at least 2x2 to be halved; got {height}x{width}; {way_out}")
    return (height + 1) // 2, (width + 1) // 2
