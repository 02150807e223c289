"""Images as rows of patches, and rows by their numbers.

Notation: n patches of s x s pixels, `grid` rows and columns of them; p = s^2 c numbers of each.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rows(values: Float[Tensor, "b n d"], index: Int[Tensor, "b m"]) -> Float[Tensor, "b m d"]:
    """Return row index[i, j] of values[i] as row j."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def patchify(images: Float[Tensor, "b c h w"], patch_size: int) -> Float[Tensor, "b n p"]:
    """Cut images into patches, row by row; the numbers of one are by row, column and channel."""
    grid = torch.unflatten(
        torch.unflatten(images, 3, (-1, patch_size)), 2, (-1, patch_size)
    )  # (b, c, rows, s, columns, s)
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Float[Tensor, "b n p"], grid: tuple[int, int], patch_size: int) -> Float[Tensor, "b c h w"]:
    """Put the patches of `patchify` together again."""
    parts = torch.unflatten(
        torch.unflatten(patches, 2, (patch_size, patch_size, -1)), 1, grid
    )  # (b, rows, columns, s, s, c)
    return parts.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
