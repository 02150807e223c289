"""The fused form of SimCLR's augmentation: the same draws, but two products for space and one for colour.

Notation: b images X of c channels; h x w pixels come in, H x W go out. Crop, resize, flip and blur multiply each
channel by matrices whose rows sum to 1; brightness, contrast, saturation and greyscale mix the channels of each pixel
and add a constant. The one kind acts on pixels, the other on channels, and a constant stays what it is under rows that
sum to 1, so both commute, and each kind collapses into one map per image:

    Y = clamp(A (R X Cᵀ) + o),   R = R_blur R_crop (b, H, h),   C = C_blur C_crop (b, W, w),   A (b, c, c), o (b, c).

A and o are products of small matrices: the mean that contrast needs is that of the cropped image, before the blur as
in the exact form, and follows from the image by the means of the rows of R_crop and C_crop.

What is approximate, against the exact form in `color` and `spatial`, is this and no more:

- Values are clamped to [0, 1] once, at the end; the exact form clamps after each brightness, contrast and saturation.
  So a bright image can come back from above 1 with its contrast, where the exact form has lost it, and the mean that
  contrast refers to is that of values not yet clamped.
- Hue turns the colours about the axis of greys, on a circle (Haeberli 1993, Matrix Operations for Image Processing),
  which is linear. The exact form turns them as HSV does, on a hexagon, where the largest and the smallest channel keep
  their values. Both agree on turns by thirds, which permute the channels, and on greys; between them, a saturated
  colour can leave [0, 1] here and be clamped.

So the two forms are equal up to rounding where nothing clamps and hue turns by thirds or not at all. Solarisation is
not linear; it follows as it is.
"""

import math
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mlml.data.color import BRIGHTNESS, CONTRAST, HUE, SATURATION, Jitter, luma
from mlml.data.spatial import Blur, Boxes, crop_matrices, gaussian_taps, reflected


class ColorMap(NamedTuple):
    """What becomes of the channels x of a pixel: A x + o."""

    matrix: Float[Tensor, "b c c"]
    offset: Float[Tensor, "b c"]


def fused_view(
    images: Float[Tensor, "b c h w"],
    size: tuple[int, int],
    boxes: Boxes,
    flipped: Bool[Tensor, " b"] | None,
    jitter: Jitter | None,
    grey: Bool[Tensor, " b"] | None,
    blur: Blur | None,
) -> Float[Tensor, "b c H W"]:
    """Crop to `size`, flip, jitter, turn grey and blur each image, in two products for space and one for colour.

    Args:
        images: in [0, 1], of 1 or 3 channels.
        size: height and width that go out.
        boxes: what is cropped.
        flipped: the images that are mirrored; None for none, as below.
        jitter: what the colour jitter does.
        grey: the images that turn grey.
        blur: which images are blurred, and how much.

    Raises:
        ValueError: a blur kernel that is even, or too wide to reflect at the edges.
    """
    rows, columns = crop = crop_matrices(images, boxes, size, flipped)
    if blur is not None:
        taps = gaussian_taps(blur, min(size), images.dtype)
        rows, columns = _blurred(rows, taps), _blurred(columns, taps)
    halfway = torch.unflatten(images.flatten(1, 2) @ columns.mT, 1, images.shape[1:3])  # X Cᵀ (b, c, h, W)
    views = torch.stack([rows @ channel for channel in halfway.unbind(1)], 1)  # without a copy of R for each channel
    if jitter is None and grey is None:
        return views
    matrix, offset = color_map(_mean(images, *crop), jitter, grey)
    return torch.baddbmm(offset[:, :, None], matrix, views.flatten(2)).clamp_(0, 1).view_as(views)


def color_map(mean: Float[Tensor, "b c"], jitter: Jitter | None, grey: Bool[Tensor, " b"] | None) -> ColorMap:
    """Compose the jitter of each image, in the image's own order, and its greyscale.

    Contrast f moves a pixel x away from the grey of the mean m at that moment, x -> f x + (1 - f) L m, where L replaces
    all channels by their grey. So m itself goes to (f + (1 - f) L) m, as by saturation, and two chains of matrices are
    enough: P for the pixels and Q for the mean. The difference of their results is the offset (Q - P) m.

    Args:
        mean: of each channel, before the jitter.
        jitter: what the colour jitter does; None for nothing.
        grey: the images that turn grey; None for none. One of both must be given.
    """
    channels = mean.shape[1]
    identity = torch.eye(channels, dtype=mean.dtype, device=mean.device)
    to_grey = torch.stack([torch.full_like(identity[0], weight) for weight in luma(channels)], 1)  # L (c, c)
    steps = [] if jitter is None else _adjustments(jitter, identity, to_grey)
    if grey is not None:
        steps.append(torch.where(grey[:, None, None, None], to_grey, identity))
    both = reduce(lambda before, step: step @ before, steps)
    of_pixels, of_mean = both[:, 0], both[:, -1]
    return ColorMap(of_pixels, ((of_mean - of_pixels) @ mean[:, :, None])[:, :, 0])


def hue_rotation(turns: Float[Tensor, " b"], channels: int) -> Float[Tensor, "b c c"]:
    """Matrices that turn colours about the axis of greys; a third of a turn makes red green, green blue, blue red.

    A turn by u mixes the three cyclic permutations Pᵏ of the channels, which are the turns by k / 3, with the weights
    (1 + 2 cos 2π(u - k / 3)) / 3. One channel stays as it is.

    Args:
        turns: any.
        channels: 1 or 3.
    """
    channel = torch.arange(channels, device=turns.device)
    if channels == 1:
        return torch.ones_like(turns)[:, None, None]
    weights = (1 + 2 * torch.cos(2 * math.pi * (turns[:, None] - channel / 3))) / 3  # (b, k)
    return weights[:, (channel[:, None] - channel) % 3]


def _adjustments(
    jitter: Jitter, identity: Float[Tensor, "c c"], to_grey: Float[Tensor, "c c"]
) -> list[Float[Tensor, "b 2 c c"]]:
    """Matrices of each image's four adjustments, from its first to its last, for the pixels and for their mean."""
    factor = jitter.factors[:, :, None, None]
    scaled = factor * identity  # (b, 4, c, c)
    greyed = scaled + (1 - factor) * to_grey
    turned = hue_rotation(jitter.factors[:, HUE], len(identity))
    brightness, saturation = scaled[:, BRIGHTNESS], greyed[:, SATURATION]
    of_pixels = torch.stack([brightness, scaled[:, CONTRAST], saturation, turned], 1)
    of_mean = torch.stack([brightness, greyed[:, CONTRAST], saturation, turned], 1)
    named = torch.stack([of_pixels, of_mean], 2)  # (b, 4, 2, c, c), as `color` numbers them
    order = jitter.order[:, :, None, None, None].expand_as(named)
    return list(named.gather(1, order).unbind(1))


def _blurred(matrices: Float[Tensor, "b n i"], taps: Float[Tensor, "b k"]) -> Float[Tensor, "b n i"]:
    """B M for each image, where B convolves n pixels with its taps, with reflected edges.

    B has as many diagonals as there are taps, so a sum of shifted rows costs less than a product.
    """
    size, kernel_size = matrices.shape[1], taps.shape[1]
    place = torch.arange(size + kernel_size - 1, device=taps.device) - kernel_size // 2
    padded = matrices.index_select(1, reflected(place, size))
    first, *others = taps[:, :, None, None].unbind(1)
    blurred = padded[:, :size] * first
    for shift, tap in enumerate(others, 1):
        blurred.addcmul_(padded[:, shift : shift + size], tap)
    return blurred


def _mean(
    images: Float[Tensor, "b c h w"], rows: Float[Tensor, "b H h"], columns: Float[Tensor, "b W w"]
) -> Float[Tensor, "b c"]:
    """Mean of R X Cᵀ over its pixels."""
    weights = rows.mean(1)[:, :, None] * columns.mean(1)[:, None, :]  # (b, h, w)
    return (weights.flatten(1)[:, None] @ images.flatten(2).mT)[:, 0]
