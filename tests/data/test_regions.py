import numpy as np
import pytest
import torch

from mlml.data.masks import block_mask, central_mask, overlap_weights

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "side", "rows", "columns"),
    [
        ((8, 8), 0.5, range(2, 6), range(2, 6)),
        ((9, 6), 0.5, range(2, 6), range(1, 4)),
        ((8, 8), 0.99, range(7), range(7)),
    ],
)
def test_the_central_region(size, side, rows, columns):
    mask = central_mask(3, size, side, CPU)
    expected = torch.zeros(3, 1, *size)
    for row in rows:
        for column in columns:
            expected[:, :, row, column] = 1
    assert torch.equal(mask, expected)


def test_blocks_hide_some_and_at_most_their_area():
    masks = block_mask(400, (32, 24), 4, 0.25, torch.Generator().manual_seed(0))
    assert masks.shape == (400, 1, 32, 24)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    hidden = masks.mean((1, 2, 3))
    assert hidden.max() <= 0.25
    assert hidden.min() >= 4 * 3 / (32 * 24)  # the smallest block, 4x3, of four that lie on each other
    assert len(hidden.unique()) > 20
    assert (masks.mean((0, 1)) > 0).all()  # every pixel is hidden at times, those of the corners too


def test_one_block_is_a_rectangle():
    for mask in block_mask(50, (16, 16), 1, 0.25, torch.Generator().manual_seed(0))[:, 0]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert 4 <= len(rows) <= 8
        assert 4 <= len(columns) <= 8
        inside = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert inside.all()
        assert inside.sum() == mask.sum()


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_weights_by_the_distance_to_what_is_hidden(overlap):
    mask = (torch.rand(3, 1, 9, 7, generator=torch.Generator().manual_seed(0)) < 0.05).float()
    assert mask.any()
    found = overlap_weights(mask, overlap, 10.0)
    for i, row, column in np.ndindex(3, 9, 7):
        near = mask[i, 0, max(0, row - overlap) : row + overlap + 1, max(0, column - overlap) : column + overlap + 1]
        expected = 1.0 if mask[i, 0, row, column] else 10.0 if near.any() else 0.0
        assert found[i, 0, row, column] == expected
