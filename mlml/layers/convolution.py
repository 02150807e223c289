"""Convolutions whose padding is named, and the unpooling of a max pooling."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mlml.layers import arithmetic


class Conv2d(nn.Conv2d):
    """A convolution with padding "same", "valid" or "full", as `mlml.layers.arithmetic` says them.

    Torch has no "full", and its "same" refuses a stride.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: side of the kernel.
        stride: in pixels.
        padding: "same", "valid" or "full".
        dilation: pixels between neighbouring weights.
        bias: whether to add one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        padding: str = "same",
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, dilation=dilation, bias=bias)
        self.numbers = (kernel, stride, padding, dilation)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Pad with 0 and convolve."""
        top, bottom = arithmetic.convolution_padding(images.shape[2], *self.numbers)
        left, right = arithmetic.convolution_padding(images.shape[3], *self.numbers)
        if top != bottom or left != right:
            images, top, left = F.pad(images, (left, right, top, bottom)), 0, 0
        return F.conv2d(images, self.weight, self.bias, self.stride, (top, left), self.dilation)


class ConvTranspose2d(nn.ConvTranspose2d):
    """The adjoint of `Conv2d` with the same numbers, of an input that the stride divides (if padded "same").

    Args: as of `Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        padding: str = "same",
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        both, self.rest = arithmetic.transposed_cut(kernel, stride, padding, dilation)
        super().__init__(
            in_channels, out_channels, kernel, stride, both, max(-self.rest, 0), bias=bias, dilation=dilation
        )

    def forward(  # type: ignore[override]  # the output's size is known
        self, images: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b d h2 w2"]:
        """Convolve and cut."""
        grid = super().forward(images)
        return grid[..., :-1, :-1] if self.rest > 0 else grid


def unpool(
    maxima: Float[Tensor, "b c h w"], indices: Int[Tensor, "b c h w"], size: tuple[int, int]
) -> Float[Tensor, "b c H W"]:
    """Put each value where the max pooling found its maximum, and 0 elsewhere (Zeiler et al. 2011; SegNet).

    Badrinarayanan et al. 2017, arXiv:1511.00561, figure 3. `F.max_unpool2d`, but bfloat16 stays so under autocast.

    Args:
        maxima: what takes the places of the maxima.
        indices: of the maxima in the pooled grid, row by row; all different, hence of windows that do not overlap.
        size: height and width of the pooled grid.
    """
    grid = maxima.new_zeros((*maxima.shape[:2], size[0] * size[1]))  # (b, c, H W)
    return grid.scatter(2, indices.flatten(2), maxima.flatten(2)).view(*maxima.shape[:2], *size)
