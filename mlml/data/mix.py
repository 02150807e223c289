"""Mixing of images and labels within a batch, on the device, with numbers of its own for each image.

Notation: b images; weight (b,) is the share of an image's own label, 1 - weight that of its partner's.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mlml.data.batches import Batch


class Mixed(NamedTuple):
    """A batch in which every image is a mixture of itself and a partner."""

    images: Float[Tensor, "b c h w"]
    labels: Int[Tensor, " b"]
    partner_labels: Int[Tensor, " b"]
    weight: Float[Tensor, " b"]


def mixup(batch: Batch, alpha: float, generator: torch.Generator) -> Mixed:
    """Mixup (Zhang et al. 2018, arXiv:1710.09412, Eq. 1): weight x_i + (1 - weight) x_j, weight ~ Beta(alpha, alpha).

    The paper draws one weight for a batch; here every image has its own.
    """
    partner = _partners(batch, generator)
    weight = _beta(alpha, len(partner), generator)
    share = weight.view(-1, 1, 1, 1)
    images = share * batch.images + (1 - share) * batch.images[partner]
    return Mixed(images, batch.labels, batch.labels[partner], weight)


def cutmix(batch: Batch, alpha: float, generator: torch.Generator) -> Mixed:
    """CutMix (Yun et al. 2019, arXiv:1905.04899, Eq. 1 and 2): a box of the image is that of the partner.

    The box covers 1 - weight of the image, weight ~ Beta(alpha, alpha), its centre is anywhere, and what of it falls
    outside is cut; the weight returned is that of the pixels that were kept.
    """
    partner = _partners(batch, generator)
    weight = _beta(alpha, len(partner), generator)
    height, width = batch.images.shape[2:]
    rows = _inside(height, (1 - weight).sqrt(), generator)  # (b, h)
    columns = _inside(width, (1 - weight).sqrt(), generator)  # (b, w)
    box = rows[:, :, None] & columns[:, None, :]  # (b, h, w)
    images = torch.where(box[:, None], batch.images[partner], batch.images)
    return Mixed(images, batch.labels, batch.labels[partner], 1 - box.float().mean((1, 2)))


def _partners(batch: Batch, generator: torch.Generator) -> Int[Tensor, " b"]:
    return torch.randperm(len(batch.images), generator=generator, device=batch.images.device)


def _beta(alpha: float, count: int, generator: torch.Generator) -> Float[Tensor, " b"]:
    """Draws of Beta(alpha, alpha), as the share of one of two Gamma(alpha) draws in their sum."""
    shape = torch.full((2, count), alpha, dtype=torch.float64, device=generator.device)
    first, second = torch._standard_gamma(shape, generator)
    weight: Tensor = first / (first + second)
    return weight.float()


def _inside(size: int, share: Float[Tensor, " b"], generator: torch.Generator) -> Tensor:
    """Whether each of `size` pixels lies within `share` / 2 of a centre drawn for each image; (b, size)."""
    centre = torch.rand(len(share), generator=generator, device=generator.device)
    half = (share * size / 2).round()
    middle = (centre * size).floor()
    pixels = torch.arange(size, device=generator.device)
    low, high = middle - half, middle + (share * size).round() - half
    return (pixels >= low[:, None]) & (pixels < high[:, None])
