import numpy as np
import pytest
import torch

from mlml.data import lab


def slow_lab(colour: np.ndarray) -> np.ndarray:
    """L, a, b of one sRGB colour, by the formulae of IEC 61966-2-1 and CIE 15, one number at a time."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    white = (0.95047, 1.0, 1.08883)
    f = []
    for row, reference in zip(lab.XYZ, white, strict=True):
        ratio = sum(w * c for w, c in zip(row, linear, strict=True)) / reference
        f.append(ratio ** (1 / 3) if ratio > 0.008856 else 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def image(*colours):
    return torch.tensor(colours, dtype=torch.float64).T[None, :, None]  # (1, 3, 1, n)


def test_it_is_the_formula_of_every_pixel():
    images = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images[0] *= 0.04  # the straight parts of both curves
    found = lab.rgb_to_lab(images)
    for i, row, column in np.ndindex(3, 4, 5):
        expected = slow_lab(images[i, :, row, column].numpy())
        np.testing.assert_allclose(found[i, :, row, column], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((1, 1, 1), (100, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_published_values_of_the_primaries(colour, expected):
    assert lab.rgb_to_lab(image(colour)).flatten().tolist() == pytest.approx(expected, abs=0.02)


def test_back_again():
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    images[0] *= 0.05
    torch.testing.assert_close(lab.lab_to_rgb(lab.rgb_to_lab(images)), images, rtol=0, atol=2e-5)


def test_a_colour_outside_of_srgb_is_cut():
    cut = lab.lab_to_rgb(image((50.0, 100.0, -100.0), (99.0, -90.0, 90.0)))
    assert cut.isfinite().all()
    assert cut.min() == 0
    assert cut.max() <= 1
    assert float(cut.max()) == pytest.approx(1)


def test_neutral_keeps_the_lightness_and_nothing_else():
    images = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(2))
    found, expected = lab.rgb_to_lab(lab.neutral(images)), lab.rgb_to_lab(images)
    torch.testing.assert_close(found[:, 0], expected[:, 0], rtol=0, atol=1e-3)
    assert found[:, 1:].abs().max() < 0.02
    assert lab.neutral(images).shape == images.shape


def test_the_gamut_is_that_of_all_colours_of_8_bits():
    """By the formula in NumPy, over the faces of the cube of colours and a lattice inside it."""
    levels = np.linspace(0, 1, 256)
    colours = []
    for channel, value in np.ndindex(3, 2):
        face = np.stack([np.full((256, 256), float(value)), *np.meshgrid(levels, levels)], -1)
        colours.append(np.roll(face, channel, -1).reshape(-1, 3))
    inside = np.stack(np.meshgrid(*[levels[::5]] * 3), -1).reshape(-1, 3)
    rgb = np.concatenate([*colours, inside])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    ratio = linear @ np.array(lab.XYZ).T / (0.95047, 1.0, 1.08883)
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    ab = np.stack([500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    assert set(lab.gamut(10.0)) == {(10.0 * a, 10.0 * b) for a, b in np.rint(ab / 10).astype(int).tolist()}
    assert len(lab.gamut(10.0)) == 261
