"""Corruption of images for denoising, on the device (Vincent et al. 2010, JMLR 11:3371, section 3.3).

Numbers are drawn for the whole global batch, of which each rank keeps its share. A component is one channel of a pixel;
of each image the same number of components is corrupted, chosen anew, as the paper has it.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mlml import distributed


def add_gaussian(images: Float[Tensor, "b c h w"], std: float, generator: torch.Generator) -> Float[Tensor, "b c h w"]:
    """Add normal noise of standard deviation `std` to each component; what leaves [0, 1] is not cut off."""
    shape = (distributed.total(len(images)), *images.shape[1:])
    noise = torch.randn(shape, generator=generator, device=generator.device)
    return images + std * distributed.share(noise)


def mask(images: Float[Tensor, "b c h w"], fraction: float, generator: torch.Generator) -> Float[Tensor, "b c h w"]:
    """Set a fraction of the components of each image, rounded to a number, to 0."""
    return images.masked_fill(_chosen(images, fraction, generator), 0.0)


def salt_and_pepper(
    images: Float[Tensor, "b c h w"], fraction: float, generator: torch.Generator
) -> Float[Tensor, "b c h w"]:
    """Set a fraction of the components of each image, rounded to a number, to 0 or 1 by a fair coin."""
    chosen = _chosen(images, fraction, generator)
    shape = (distributed.total(len(images)), *images.shape[1:])
    coins = distributed.share(torch.rand(shape, generator=generator, device=generator.device)) < 0.5
    return torch.where(chosen, coins.to(images.dtype), images)


def _chosen(images: Tensor, fraction: float, generator: torch.Generator) -> Bool[Tensor, "b c h w"]:
    size = images[0].numel()
    shape = (distributed.total(len(images)), size)
    draws = distributed.share(torch.rand(shape, generator=generator, device=generator.device))
    places = draws.argsort(dim=1, stable=True)[:, : round(fraction * size)]
    return torch.zeros_like(draws, dtype=torch.bool).scatter(1, places, True).view_as(images)
