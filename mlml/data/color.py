"""Colour operations on batches, where each image has parameters of its own.

Images are floats in [0, 1] of c = 1 or 3 channels; on one channel saturation, hue and greyscale do nothing, as in
torchvision. Brightness, contrast and saturation are all a blend with a reference and a clamp to [0, 1],

    y = clamp(f x + (1 - f) reference),   reference = 0, the mean grey of the image, the grey of the pixel,

so each is one product of the pixels with a colour matrix A (b, c, c) plus an offset, and images that take different
ones of the three at the same moment still share that product.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mlml import distributed

LUMA = (0.2989, 0.587, 0.114)
"""Grey of red, green and blue: torchvision's rounding of ITU-R BT.601."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""The operations of the colour jitter, numbered as in torchvision."""


class Jitter(NamedTuple):
    """What the colour jitter does to each image.

    Attributes:
        factors: of brightness, contrast and saturation, 1 for no change; of hue in turns, 0 for no change.
        order: permutation of (BRIGHTNESS, CONTRAST, SATURATION, HUE), first to last.
    """

    factors: Float[Tensor, "b 4"]
    order: Int[Tensor, "b 4"]


def adjust_brightness(images: Float[Tensor, "b c h w"], factor: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Scale each image by its factor, as torchvision's `adjust_brightness`."""
    return _blend(images, factor, torch.full_like(factor, BRIGHTNESS))


def adjust_contrast(images: Float[Tensor, "b c h w"], factor: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Move each image away from its mean grey, as torchvision's `adjust_contrast`."""
    return _blend(images, factor, torch.full_like(factor, CONTRAST))


def adjust_saturation(images: Float[Tensor, "b c h w"], factor: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Move each pixel away from its grey, as torchvision's `adjust_saturation`."""
    return _blend(images, factor, torch.full_like(factor, SATURATION))


def adjust_hue(images: Float[Tensor, "b c h w"], turns: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Turn the hue of each image, as torchvision's `adjust_hue`.

    With value v, minimum m and chroma v - m of a pixel, its hue is, in turns,

        u = ± (g + b - r + v - 2 m) / (6 chroma),   negative where g < b,

    which is the usual formula by sextants, its three cases in one. Channel k of the result is
    m + chroma clamp(6 d - 1, 0, 1), where d in [0, 1/2] is the distance of the turned hue from the one opposite to the
    channel's: 1/2, 5/6 and 1/6. Selecting by masks instead would take four times as long on a CPU.

    Args:
        images: in [0, 1].
        turns: in [-1/2, 1/2].
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)  # (b, h, w)
    value = torch.maximum(red, green).clamp_(min=blue)
    lowest = torch.minimum(red, green).clamp_(max=blue)
    hue = (green + blue).sub_(red).add_(value).sub_(lowest, alpha=2)
    chroma6 = value.sub_(lowest).mul_(6)  # 0 only where `hue` is, too, and then it does not matter
    hue.div_(chroma6.clamp(min=1e-12)).copysign_(green - blue).add_(turns[:, None, None])
    floor = lowest.sub_(chroma6, alpha=1 / 6)
    channels = []
    for opposite in (1 / 2, 5 / 6, 1 / 6):
        distance = hue - opposite
        distance.sub_(distance.round()).abs_().clamp_(1 / 6, 1 / 3)
        channels.append(distance.mul_(chroma6).add_(floor))
    return torch.stack(channels, 1)


def greyscale(images: Float[Tensor, "b c h w"], applied: Bool[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Replace the images that `applied` marks by their grey, in as many channels as before."""
    if images.shape[1] == 1:
        return images
    return _recolor(images, (~applied).to(images.dtype), applied.to(images.dtype), None)


def solarise(
    images: Float[Tensor, "b c h w"], threshold: Float[Tensor, " b"], applied: Bool[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Invert the values from a threshold on, in the images that `applied` marks, as torchvision's `solarize`.

    Args:
        images: in [0, 1].
        threshold: of each image; a value x >= threshold becomes 1 - x.
        applied: the others stay as they are.
    """
    lowest = torch.where(applied, threshold, torch.inf)[:, None, None, None]
    return torch.where(images >= lowest, 1 - images, images)


def color_jitter(images: Float[Tensor, "b c h w"], jitter: Jitter) -> Float[Tensor, "b c h w"]:
    """Apply the four adjustments to each image in the image's own order.

    Hue is dear, so it runs once for the whole batch: an image takes the adjustments that its order puts before hue
    in three rounds before it, the others in three rounds after it, and stays as it is in a round that is not its own.
    """
    factors = jitter.factors.gather(1, jitter.order)  # (b, 4), first to last
    if images.shape[1] == 1:
        factors = factors.masked_fill(jitter.order == HUE, 1.0)
        for position in range(4):
            images = _blend(images, factors[:, position], jitter.order[:, position])
        return images
    hue_position = (jitter.order == HUE).int().argmax(1)
    for position in (0, 1, 2):
        factor = torch.where(hue_position > position, factors[:, position], 1.0)
        images = _blend(images, factor, jitter.order[:, position])
    images = adjust_hue(images, jitter.factors[:, HUE])
    for position in (1, 2, 3):
        factor = torch.where(hue_position < position, factors[:, position], 1.0)
        images = _blend(images, factor, jitter.order[:, position])
    return images


def sample_jitter(
    strengths: tuple[float, float, float, float], applied: Bool[Tensor, " b"], generator: torch.Generator
) -> Jitter:
    """Draw factors and order as `torchvision.transforms.v2.ColorJitter` does.

    Args:
        strengths: of brightness, contrast, saturation (factor uniform in [max(0, 1 - s), 1 + s]) and hue ([-s, s]).
        applied: the other images get factors that change nothing.
        generator: on the device where the factors are needed.
    """
    count = distributed.total(len(applied))
    draws = distributed.share(torch.rand(count, 4, generator=generator, device=generator.device))
    neutral = (1.0, 1.0, 1.0, 0.0)
    columns = []
    for name, (strength, center) in enumerate(zip(strengths, neutral, strict=True)):
        low = center - strength if name == HUE else max(0.0, center - strength)
        columns.append(torch.where(applied, low + (center + strength - low) * draws[:, name], center))
    order = distributed.share(torch.rand(count, 4, generator=generator, device=generator.device)).argsort(1)
    return Jitter(torch.stack(columns, 1), order)


def _blend(
    images: Float[Tensor, "b c h w"], factor: Float[Tensor, " b"], operation: Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Brightness, contrast or saturation, whichever `operation` names for each image; HUE must have factor 1."""
    rest = 1 - factor
    offset = rest * (operation == CONTRAST) * _grey(images.mean((2, 3)))
    return _recolor(images, factor, rest * (operation == SATURATION), offset).clamp_(0, 1)


def _recolor(
    images: Float[Tensor, "b c h w"],
    own: Float[Tensor, " b"],
    grey: Float[Tensor, " b"],
    offset: Float[Tensor, " b"] | None,
) -> Float[Tensor, "b c h w"]:
    """Own times the image plus grey times its grey plus the offset, as one product with (b, c, c) matrices."""
    channels, pixels = images.shape[1], images.flatten(2)  # (b, c, h w)
    identity = torch.eye(channels, dtype=images.dtype, device=images.device)
    weights = torch.stack([grey * weight for weight in luma(channels)], 1)  # (b, c)
    matrix = own[:, None, None] * identity + weights[:, None, :]
    if offset is None:
        return (matrix @ pixels).view_as(images)
    return torch.baddbmm(offset[:, None, None], matrix, pixels).view_as(images)


def _grey(channels: Float[Tensor, "b c ..."]) -> Float[Tensor, "b ..."]:
    first, *others = (channels[:, k] * weight for k, weight in enumerate(luma(channels.shape[1])))
    return sum(others, start=first)


def luma(channels: int) -> tuple[float, ...]:
    """Weights of the channels in the grey of a pixel."""
    return LUMA if channels == 3 else (1.0,)
