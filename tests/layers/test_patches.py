"""Patches, their order and their positions, against loops."""

import math

import numpy as np
import pytest
import torch

from mlml.layers.patches import patchify, rows, unpatchify
from mlml.layers.transformer import sine_cosine_positions


def test_patches_are_cut_row_by_row_and_put_together_again():
    images = torch.rand(2, 3, 8, 12)
    patches = patchify(images, 4)
    assert patches.shape == (2, 6, 48)
    for b, r, c in np.ndindex(2, 2, 3):
        for y, x, channel in np.ndindex(4, 4, 3):
            expected = images[b, channel, 4 * r + y, 4 * c + x]
            assert patches[b, 3 * r + c, (4 * y + x) * 3 + channel] == expected
    assert torch.equal(unpatchify(patches, (2, 3), 4), images)


def test_rows_are_taken_by_number_and_their_inverse_puts_them_back():
    values = torch.rand(3, 5, 2)
    order = torch.stack([torch.randperm(5) for _ in range(3)])
    taken = rows(values, order)
    for i, j in np.ndindex(3, 5):
        assert torch.equal(taken[i, j], values[i, order[i, j]])
    assert torch.equal(rows(taken, order.argsort(1)), values)


def test_positions_are_sines_and_cosines_of_column_and_row():
    """Vaswani et al. 2017, section 3.5, with He et al.'s two halves, as a loop."""
    positions = sine_cosine_positions(2, 3, 16)
    for row, column in np.ndindex(2, 3):
        expected = []
        for place in (column, row):
            for wave in (math.sin, math.cos):
                expected += [wave(place / 10000 ** (k / 4)) for k in range(4)]
        assert positions[3 * row + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_width_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="dim must be a multiple of 4; got 6"):
        sine_cosine_positions(2, 2, 6)
