"""Mixing of images and labels within a batch, on the device, with numbers of its own for each image.

Notation: b images; weight (b,) is the share of an image's own label, 1 - weight that of its partner's.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mlml import distributed
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
    weight = _beta(alpha, len(batch.images), generator)
    share = weight.view(-1, 1, 1, 1)
    images = share * batch.images + (1 - share) * partner.images
    return Mixed(images, batch.labels, partner.labels, weight)


def cutmix(batch: Batch, alpha: float, generator: torch.Generator) -> Mixed:
    """CutMix (Yun et al. 2019, arXiv:1905.04899, Eq. 1 and 2): a box of the image is that of the partner.

    The box covers 1 - weight of the image, weight ~ Beta(alpha, alpha), its centre is anywhere, and what of it falls
    outside is cut; the weight returned is that of the pixels that were kept.
    """
    partner = _partners(batch, generator)
    weight = _beta(alpha, len(batch.images), generator)
    height, width = batch.images.shape[2:]
    rows = _inside(height, (1 - weight).sqrt(), generator)  # (b, h)
    columns = _inside(width, (1 - weight).sqrt(), generator)  # (b, w)
    box = rows[:, :, None] & columns[:, None, :]  # (b, h, w)
    images = torch.where(box[:, None], partner.images, batch.images)
    return Mixed(images, batch.labels, partner.labels, 1 - box.float().mean((1, 2)))


def _partners(batch: Batch, generator: torch.Generator) -> Batch:
    """Another image of the global batch for each image, with its label; each is the partner of one."""
    count = distributed.total(len(batch.images))
    partner = distributed.share(torch.randperm(count, generator=generator, device=batch.images.device))
    return Batch(distributed.gather(batch.images)[partner], distributed.gather(batch.labels)[partner])


def _beta(alpha: float, count: int, generator: torch.Generator) -> Float[Tensor, " b"]:
    """Draws of Beta(alpha, alpha), as the share of one of two Gamma(alpha) draws in their sum."""
    shape = torch.full((2, distributed.total(count)), alpha, dtype=torch.float64, device=generator.device)
    first, second = distributed.share(torch._standard_gamma(shape, generator), dim=1)
    weight: Tensor = first / (first + second)
    return weight.float()


def _inside(size: int, share: Float[Tensor, " b"], generator: torch.Generator) -> Tensor:
    """Whether each of `size` pixels lies within `share` / 2 of a centre drawn for each image; (b, size)."""
    count = distributed.total(len(share))
    centre = distributed.share(torch.rand(count, generator=generator, device=generator.device))
    half = (share * size / 2).round()
    middle = (centre * size).floor()
    pixels = torch.arange(size, device=generator.device)
    low, high = middle - half, middle + (share * size).round() - half
    return (pixels >= low[:, None]) & (pixels < high[:, None])
