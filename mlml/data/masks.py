"""Regions of images that are hidden from an encoder.

Notation: a mask (b, 1, h, w) is 1 where an image is hidden and 0 where it is seen: M of Pathak et al. 2016,
arXiv:1604.07379.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mlml import distributed


def central_mask(count: int, size: tuple[int, int], side: float, device: torch.device) -> Float[Tensor, "b 1 h w"]:
    """Hide the middle of each image (section 3.3, "central region").

    Args:
        count: of the images.
        size: height and width of the images.
        side: height and width of the region, as fractions of the image's; rounded to whole pixels, at least 1, and
            down where the whole image would be hidden.
        device: of the mask.
    """
    mask = torch.zeros(count, 1, *size, device=device)
    height, width = (min(max(1, round(side * whole)), whole - 1) for whole in size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    mask[:, :, top : top + height, left : left + width] = 1
    return mask


def block_mask(
    count: int, size: tuple[int, int], num_blocks: int, area: float, generator: torch.Generator
) -> Float[Tensor, "b 1 h w"]:
    """Hide several blocks of each image, that may overlap (section 3.3, "random block").

    A side of a block is drawn between half the largest and the largest, with which all blocks together would cover
    `area`; its place is drawn uniformly among those inside the image.

    Args:
        count: of the images on this rank.
        size: height and width of the images.
        num_blocks: of each image.
        area: the most that is hidden, as a fraction of the image's area; but each block has at least one pixel.
        generator: on the device of the mask.
    """
    shape = (distributed.total(count), num_blocks, 4)
    draws = distributed.share(torch.rand(shape, generator=generator, device=generator.device))
    mask = torch.ones(count, num_blocks, 1, 1, dtype=torch.bool, device=draws.device)
    for axis, whole in enumerate(size):
        largest = max(1, int(whole * math.sqrt(area / num_blocks)))
        smallest = max(1, largest // 2)
        length = smallest + (draws[..., axis] * (largest - smallest + 1)).long().clamp(max=largest - smallest)
        start = (draws[..., 2 + axis] * (whole - length + 1)).long().minimum(whole - length)  # (b, k)
        place = torch.arange(whole, device=draws.device)
        inside = (place >= start[..., None]) & (place < (start + length)[..., None])  # (b, k, whole)
        mask = mask & (inside[..., :, None] if axis == 0 else inside[..., None, :])
    return mask.any(1, keepdim=True).float()


def overlap_weights(mask: Float[Tensor, "b 1 h w"], overlap: int, weight: float) -> Float[Tensor, "b 1 h w"]:
    """Weights of a reconstruction: 1 where an image is hidden, `weight` where it is seen near that, 0 elsewhere.

    Pathak et al. 2016, section 4: the prediction overlaps with what is seen by some pixels, where its errors weigh
    more, so that both fit together.

    Args:
        mask: 1 where hidden.
        overlap: pixels, counted along rows and columns and diagonals alike; 0 for none.
        weight: of the pixels that are seen.
    """
    near = F.max_pool2d(mask, 2 * overlap + 1, stride=1, padding=overlap)
    return mask + weight * (near - mask)
