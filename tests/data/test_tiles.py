import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mlml.data import tiles

CPU = torch.device("cpu")


def slow_permutation_set(num_tiles, first, count):
    """Noroozi & Favaro 2016, Algorithm 1, with the matrix of Hamming distances computed anew at each turn."""
    left = list(itertools.permutations(range(num_tiles)))
    chosen = [left.pop(left.index(first))]
    while len(chosen) < count:
        distances = [sum(sum(x != y for x, y in zip(p, q, strict=True)) for p in chosen) for q in left]
        chosen.append(left.pop(int(np.argmax(distances))))
    return chosen


@pytest.mark.parametrize(("num_tiles", "count", "seed"), [(4, 24, 0), (4, 7, 3), (5, 30, 1)])
def test_permutations_are_those_of_the_greedy_algorithm(num_tiles, count, seed):
    found = [tuple(order) for order in tiles.permutation_set(num_tiles, count, seed).tolist()]
    assert found == slow_permutation_set(num_tiles, found[0], count)


def test_permutations_of_nine_tiles():
    found = tiles.permutation_set(9, 100, 0)
    assert len({tuple(order) for order in found}) == 100
    assert (np.sort(found, 1) == np.arange(9)).all()
    distances = (found[:, None] != found).sum(2)
    assert (distances[:9, :9][~np.eye(9, dtype=bool)] == 9).all()  # nine orders can differ everywhere
    random = np.array([np.random.default_rng(i).permutation(9) for i in range(100)])
    assert distances.sum() > (random[:, None] != random).sum()
    assert tuple(tiles.permutation_set(9, 2, 1)[0]) != tuple(found[0])
    np.testing.assert_array_equal(tiles.permutation_set(9, 10, 0), found[:10])


def test_refused_permutations():
    with pytest.raises(ValueError, match=r"num_permutations must be in \[1, 24\], .*; got 25"):
        tiles.permutation_set(4, 25, 0)
    with pytest.raises(ValueError, match=r"num_tiles must be in \[1, 9\], .*; got 16"):
        tiles.permutation_set(16, 5, 0)


@pytest.mark.parametrize(("size", "grid"), [((9, 9), 3), ((8, 11), 3), ((7, 10), 2)])
def test_tiles_lie_in_their_cells(size, grid):
    tile = tuple(tiles.tile_side(side, grid, 0.75) for side in size)
    top, left = tiles.sample_places(500, size, tile, grid, torch.Generator().manual_seed(0))
    for j in range(grid**2):
        row, column = divmod(j, grid)
        for places, side, length, k in ((top, tile[0], size[0], row), (left, tile[1], size[1], column)):
            begin, end = k * length // grid, (k + 1) * length // grid
            assert set(places[:, j].tolist()) == set(range(begin, end - side + 1))  # all places, and no other


def test_tiles_are_the_pixels_of_their_places():
    images = torch.rand(2, 3, 8, 11, generator=torch.Generator().manual_seed(0))
    top, left = tiles.sample_places(2, (8, 11), (2, 3), 3, torch.Generator().manual_seed(1))
    found = tiles.cut(images, top, left, (2, 3))
    assert found.shape == (2, 9, 3, 2, 3)
    for i, j in np.ndindex(2, 9):
        y, x = int(top[i, j]), int(left[i, j])
        assert torch.equal(found[i, j], images[i, :, y : y + 2, x : x + 3])


def test_tiles_put_back_are_the_image():
    images = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    found = tiles.cut(images, *tiles.central_places((9, 9), (3, 3), 3, CPU), (3, 3))
    assert torch.equal(tiles.put(found, (9, 9)), images)
    order = torch.tensor([[3, 0, 1, 2, 5, 4, 8, 7, 6], [8, 7, 6, 5, 4, 3, 2, 1, 0]])
    shuffled = tiles.arranged(found, order)
    assert torch.equal(shuffled[0, 0], found[0, 3])
    assert torch.equal(tiles.arranged(shuffled, order.argsort(1)), found)


def test_gaps_are_of_the_background():
    image = torch.zeros(1, 1, 9, 9)
    found = tiles.put(tiles.cut(image, *tiles.central_places((9, 9), (2, 2), 3, CPU), (2, 2)), (9, 9), 0.5)
    assert int((found == 0).sum()) == 9 * 4
    assert int((found == 0.5).sum()) == 81 - 36


def test_normalised_tiles():
    found = torch.rand(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found[0, 0, 0] = 0.7
    result = tiles.normalised(found)
    assert (result[0, 0, 0] == 0).all()
    for i, j, c in np.ndindex(2, 4, 3):
        values = found[i, j, c].numpy()
        expected = (values - values.mean()) / max(values.std(), 1 / 255)
        np.testing.assert_allclose(result[i, j, c], expected, atol=1e-9)


def test_resampled_tiles_are_those_of_torch():
    found = torch.rand(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    result = tiles.resampled(found, (9, 3))
    for i, j in np.ndindex(2, 4):
        expected = F.interpolate(found[i, j][None], (9, 3), mode="bilinear", antialias=True)[0]
        torch.testing.assert_close(result[i, j], expected)


def test_images_too_small_for_the_grid_are_refused():
    assert tiles.tile_side(8, 3, 64 / 75) == 2
    assert tiles.tile_side(225, 3, 64 / 75) == 64
    with pytest.raises(ValueError, match="must be at least 6 pixels high and wide; got 5"):
        tiles.tile_side(5, 3, 1.0)
