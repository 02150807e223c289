"""From a latent vector to the logits of an image, by upsampling convolutions.

Notation: `s` counts stages from the smallest grid to the full one; (h_s, w_s) is the grid of stage s and c_s its width.
"""

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlml.layers.memory import channels_last

MIN_SIDE = 8
"""Smallest image side that a decoder makes."""


class UpsampleConv2d(nn.Conv2d):
    """Nearest-neighbour upsampling by two, then a 3x3 convolution, in one operation.

    Odena et al. 2016 ("Deconvolution and Checkerboard Artifacts") upsample first, for then all output pixels are made
    by equal weights, where those of a transposed convolution may alternate. A nearest-neighbour upsampling by two is
    itself a transposed convolution by four ones; its composition with the 3x3 convolution is one of kernel 4 and
    stride 2, with 2.25 times fewer multiplications and the same result. The parameters are those of the 3x3
    convolution, so is their initialisation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        bias: whether to add one.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d 2*h 2*w"]:
        """Upsample and convolve."""
        kernel = self.weight.transpose(0, 1).flip(2, 3)  # (c, d, 3, 3)
        kernel = F.pad(kernel, (0, 1, 0, 0)) + F.pad(kernel, (1, 0, 0, 0))  # (c, d, 3, 4)
        kernel = F.pad(kernel, (0, 0, 0, 1)) + F.pad(kernel, (0, 0, 1, 0))  # (c, d, 4, 4)
        return F.conv_transpose2d(features, kernel, self.bias, stride=2, padding=1)


class Decoder(nn.Module):
    """A linear layer to a small grid, then stages that double it: upsampling convolution, batch norm, ReLU.

    The grid is the image's, halved until its shorter side is at most 7. A stage of half the side is twice as wide.
    Where a side is odd the doubled grid is cut by one.

    Args:
        latent_dim: width of the latent vector.
        channels: of the image.
        height: of the image, in pixels.
        width: of the image, in pixels.
        base_width: channels of the features at full size.

    Raises:
        ValueError: the image is smaller than 8x8.
    """

    def __init__(self, latent_dim: int, channels: int, height: int, width: int, base_width: int) -> None:
        super().__init__()
        if min(height, width) < MIN_SIDE:
            raise ValueError(
                f"decoder: images must be at least {MIN_SIDE}x{MIN_SIDE}; got {height}x{width}; "
                "prepare the data at a larger size"
            )
        sizes = [(height, width)]
        while min(sizes[0]) >= MIN_SIDE:
            sizes.insert(0, ((sizes[0][0] + 1) // 2, (sizes[0][1] + 1) // 2))
        widths = [base_width * 2**s for s in reversed(range(len(sizes)))]
        self.sizes = sizes
        self.expand = nn.Linear(latent_dim, widths[0] * sizes[0][0] * sizes[0][1])
        self.norm = nn.BatchNorm2d(widths[0])
        self.stages = nn.ModuleList(
            nn.Sequential(UpsampleConv2d(before, after, bias=False), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in pairwise(widths)
        )
        self.to_logits = nn.Conv2d(base_width, channels, kernel_size=3, padding=1)

    def forward(self, latents: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        """Logits of the pixels; their sigmoid is an image in [0, 1]."""
        grid = self.expand(latents).unflatten(1, (self.norm.num_features, *self.sizes[0]))  # (b, c_0, h_0, w_0)
        features = F.relu(self.norm(channels_last(grid)))
        for stage, (height, width) in zip(self.stages, self.sizes[1:], strict=True):
            features = stage(features)[..., :height, :width]  # (b, c_s, h_s, w_s)
        logits: Tensor = self.to_logits(features)
        return logits
