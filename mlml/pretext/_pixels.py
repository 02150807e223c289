"""What a pretext that predicts pixels puts on top of its network."""

from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlml.layers.deconvolution import Decoder
from mlml.models import Dense, Network


class PixelHead(nn.Module):
    """Numbers of every pixel: a 1x1 convolution of what the network tells of pixels, or a decoder of its features.

    The first is for a network that ends with a grid of the image's size (`unet`, or a `convnet` of such layers). The
    network is not part of this module.

    Args:
        encoder: the network.
        channels: how many numbers of a pixel.
        size: height and width of the images.
        width: of a decoder, at its full size.
        stride: one prediction stands for so many by so many pixels; must divide both sides.

    Raises:
        ValueError: the predicted grid is smaller than a decoder makes.
    """

    def __init__(self, encoder: Network, channels: int, size: tuple[int, int], width: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        dense_dim = _dense_dim(encoder)
        self.is_dense = dense_dim is not None
        self.head: nn.Module
        if dense_dim is None:
            self.head = Decoder(encoder.feature_dim, channels, size[0] // stride, size[1] // stride, width)
        else:
            self.head = nn.Conv2d(dense_dim, channels, kernel_size=1)

    def forward(self, encoder: Network, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h/stride w/stride"]:
        """Numbers of images in [0, 1], as the encoder takes them."""
        if not self.is_dense:
            decoded: Tensor = self.head(encoder(images))
            return decoded
        found: Tensor = self.head(F.avg_pool2d(cast(Dense, encoder).dense(images), self.stride))
        return found


def _dense_dim(encoder: Network) -> int | None:
    """Width of what the network tells of a pixel, if it does."""
    if not getattr(type(encoder), "is_dense", False):
        return None
    try:
        return cast(Dense, encoder).dense_dim
    except ValueError:  # a stack of layers that, as declared, does not end with the image's grid
        return None
