"""From an image to one number: how real it looks."""

from jaxtyping import Float
from torch import Tensor, nn

from mlml.layers.memory import channels_last

MIN_GRID = 4
"""Grids that are at most as long on their shorter side are not halved again."""


class ConvDiscriminator(nn.Module):
    """Strided convolutions, each halving the grid and doubling the width, and a linear layer.

    Radford et al. 2016 (DCGAN), arXiv:1511.06434, section 3: no pooling, leaky ReLU of slope 0.2, batch norm after
    every convolution but the first.

    Args:
        channels: of the image.
        height: of the image, in pixels.
        width: of the image, in pixels.
        base_width: channels after the first convolution.
    """

    def __init__(self, channels: int, height: int, width: int, base_width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size, before, after = (height, width), channels, base_width
        while min(size) > MIN_GRID or not layers:
            layers.append(nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1, bias=not layers))
            if len(layers) > 1:
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.LeakyReLU(0.2))
            size, before, after = (size[0] // 2, size[1] // 2), after, 2 * after
        self.layers = nn.Sequential(*layers)
        self.to_logit = nn.Linear(before * size[0] * size[1], 1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Logits of being real, of images about [-1, 1]."""
        logits: Tensor = self.to_logit(self.layers(channels_last(images)).flatten(1))
        return logits[:, 0]
