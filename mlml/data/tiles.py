"""Images cut into the tiles of a puzzle, the orders of the tiles, and images put together from tiles.

Notation: an image of h x w pixels is cut into n = g² cells, row by row; a tile of t x u pixels lies somewhere in each.
"""

import math
from functools import lru_cache
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mlml import distributed
from mlml.data.draws import Draws

MIN_TILE = 2
"""Smallest side of a tile, in pixels: one of a single pixel has no contrast, and so says nothing once normalised."""

FLAT = 1 / 255
"""Smallest deviation that a tile is divided by: one grey level."""


@lru_cache(maxsize=8)
def permutation_set(num_tiles: int, num_permutations: int, seed: int) -> NDArray[np.uint8]:
    """Orders of the tiles that are far from each other.

    Noroozi & Favaro 2016, arXiv:1603.09246, Algorithm 1: the first is drawn; each next one is, of all that are left,
    the one whose Hamming distances to those that are chosen sum to the most. Of several such it is the first in
    lexicographic order.

    Args:
        num_tiles: n, at most 9.
        num_permutations: how many orders, at most n!.
        seed: of the first.

    Returns:
        (num_permutations, n); position j of an order holds the tile that lies there.

    Raises:
        ValueError: more tiles or more orders than that.
    """
    if not 1 <= num_tiles <= 9:
        raise ValueError(f"permutation_set: num_tiles must be in [1, 9], of which 9! orders are tried; got {num_tiles}")
    count = math.factorial(num_tiles)
    if not 1 <= num_permutations <= count:
        raise ValueError(
            f"permutation_set: num_permutations must be in [1, {count}], all orders of {num_tiles} tiles; "
            f"got {num_permutations}"
        )
    candidates = np.array(list(permutations(range(num_tiles))), np.uint8).T.copy()  # (n, n!)
    agreement = np.zeros(count, np.int32)  # of each candidate with all that are chosen, over positions
    chosen = [Draws("permutation_set", seed).below(count)]
    while len(chosen) < num_permutations:
        last = candidates[:, chosen[-1]]
        for column, tile in zip(candidates, last, strict=True):
            agreement += column == tile
        agreement[chosen[-1]] = np.iinfo(np.int32).max // 2  # never again
        chosen.append(int(agreement.argmin()))
    found = candidates[:, chosen].T.copy()
    found.setflags(write=False)
    return found


def bounds(size: int, grid: int) -> Int[Tensor, " g+1"]:
    """Where the cells along a side of `size` pixels begin, and the last ends; their lengths differ by 1 at most."""
    return torch.arange(grid + 1) * size // grid


def tile_side(size: int, grid: int, fraction: float) -> int:
    """Pixels of a tile along a side of the image: the given fraction of the shortest cell, and at least `MIN_TILE`.

    Raises:
        ValueError: a cell is smaller than that.
    """
    cell = size // grid
    if cell < MIN_TILE:
        raise ValueError(
            f"tiles: an image cut into {grid} tiles a side must be at least {MIN_TILE * grid} pixels high and wide; "
            f"got {size}; prepare the data at a larger size"
        )
    return max(MIN_TILE, int(fraction * cell))


def sample_places(
    count: int, size: tuple[int, int], tile: tuple[int, int], grid: int, generator: torch.Generator
) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b n"]]:
    """Draw the top and left edge of each tile of each image, uniformly inside its cell.

    Args:
        count: of the images on this rank.
        size: height and width of the images.
        tile: height and width of the tiles.
        grid: cells along a side.
        generator: on the device where the places are needed.
    """
    shape = (2, distributed.total(count), grid * grid)
    draws = distributed.share(torch.rand(shape, generator=generator, device=generator.device), dim=1)
    tops, lefts = _cells(size, grid, draws.device)
    return tuple(  # type: ignore[return-value]
        start + (draw * (length - side + 1)).long().clamp(max=length - side)
        for draw, (start, length), side in zip(draws, (tops, lefts), tile, strict=True)
    )


def central_places(
    size: tuple[int, int], tile: tuple[int, int], grid: int, device: torch.device
) -> tuple[Int[Tensor, "1 n"], Int[Tensor, "1 n"]]:
    """Top and left edge of a tile in the middle of each cell; arguments as of `sample_places`."""
    (top, height), (left, width) = _cells(size, grid, device)
    return (top + (height - tile[0]) // 2)[None], (left + (width - tile[1]) // 2)[None]


def cut(
    images: Float[Tensor, "b c h w"], top: Int[Tensor, "#b n"], left: Int[Tensor, "#b n"], tile: tuple[int, int]
) -> Float[Tensor, "b n c t u"]:
    """Tiles of `tile` pixels whose edges are given; pixels as they are."""
    b, c, _, w = images.shape
    row = top[..., None] + torch.arange(tile[0], device=images.device)  # (b, n, t)
    column = left[..., None] + torch.arange(tile[1], device=images.device)  # (b, n, u)
    index = (row[..., :, None] * w + column[..., None, :]).expand(b, -1, -1, -1)  # (b, n, t, u)
    found = images.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, c, -1))  # (b, c, n t u)
    return found.view(b, c, *index.shape[1:]).transpose(1, 2)


def normalised(tiles: Float[Tensor, "b n c t u"]) -> Float[Tensor, "b n c t u"]:
    """Tiles with mean 0 and standard deviation 1 of each channel; a flatter tile than `FLAT` is divided by that."""
    variance, mean = torch.var_mean(tiles, (3, 4), correction=0, keepdim=True)
    return (tiles - mean) / variance.sqrt().clamp(min=FLAT)


def resampled(tiles: Float[Tensor, "b n c t u"], size: tuple[int, int]) -> Float[Tensor, "b n c H W"]:
    """Tiles at another size, bilinear with antialiasing."""
    flat = F.interpolate(tiles.flatten(0, 1), size, mode="bilinear", antialias=True)
    return torch.unflatten(flat, 0, tiles.shape[:2])


def arranged(tiles: Float[Tensor, "b n c t u"], order: Int[Tensor, "b n"]) -> Float[Tensor, "b n c t u"]:
    """Tiles in another order: position j of the result holds tile `order[j]`."""
    return tiles.gather(1, order[:, :, None, None, None].expand_as(tiles))


def put(tiles: Float[Tensor, "b n c t u"], size: tuple[int, int], background: float = 1.0) -> Float[Tensor, "b c h w"]:
    """Images of `size` with the tiles in the middle of their cells, row by row, on a plain background."""
    b, n, c, t, u = tiles.shape
    grid = math.isqrt(n)
    images = tiles.new_full((b, c, *size), background)
    tops, lefts = central_places(size, (t, u), grid, torch.device("cpu"))
    for j, (top, left) in enumerate(zip(tops[0].tolist(), lefts[0].tolist(), strict=True)):
        images[:, :, top : top + t, left : left + u] = tiles[:, j]
    return images


def _cells(
    size: tuple[int, int], grid: int, device: torch.device
) -> tuple[tuple[Int[Tensor, " n"], Int[Tensor, " n"]], tuple[Int[Tensor, " n"], Int[Tensor, " n"]]]:
    """Top and height, left and width of each cell."""
    rows, columns = (bounds(side, grid).to(device) for side in size)
    row, column = rows.diff().repeat_interleave(grid), columns.diff().repeat(grid)
    return (rows[:-1].repeat_interleave(grid), row), (columns[:-1].repeat(grid), column)
