"""sRGB and CIE 1976 L*a*b* of batches.

Notation: images in [0, 1] are sRGB (IEC 61966-2-1); X, Y, Z are relative to the white of D65 for the observer of 2
degrees; L in [0, 100], a and b about [-110, 110]. The constants are scikit-image's, so that its `rgb2lab` and `lab2rgb`
come to the same numbers. All sums are written out: a matrix product would lose digits where training computes in half
of them.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""Rows X, Y, Z of linear red, green and blue (ITU-R BT.709)."""

RGB = (
    (3.240481342, -1.537151516, -0.498536326),
    (-0.969254949, 1.875990001, 0.041555926),
    (0.055646639, -0.204041338, 1.057311069),
)
"""The inverse of `XYZ`."""

WHITE = (0.95047, 1.0, 1.08883)
"""X, Y, Z of D65."""


def rgb_to_lab(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """L, a and b of images in [0, 1].

    CIE 15: L = 116 f(Y) - 16, a = 500 (f(X) - f(Y)), b = 200 (f(Y) - f(Z)), where f is the cube root above 0.008856 and
    a line below.
    """
    x, y, z = (_curve(plane) for plane in _mixed(_linear(images), XYZ, WHITE))
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Images in [0, 1]; the inverse of `rgb_to_lab`. A colour that sRGB has not is cut to [0, 1] in linear light."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    xyz = [_inverse_curve(plane) * white for plane, white in zip((y + a / 500, y, y - b / 200), WHITE, strict=True)]
    return _gamma(torch.stack(_mixed(torch.stack(xyz, 1), RGB, (1.0, 1.0, 1.0)), 1).clamp(0, 1))


def neutral(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Grey images in [0, 1] with the L of each pixel and without its a and b, in three equal channels."""
    (luminance,) = _mixed(_linear(images), XYZ[1:2], WHITE[1:2])
    return _gamma(luminance.clamp(0, 1))[:, None].expand(-1, 3, -1, -1)


def _linear(images: Tensor) -> Tensor:
    return torch.where(images > 0.04045, ((images.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, images / 12.92)


def _gamma(light: Tensor) -> Tensor:
    return torch.where(light > 0.0031308, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, 12.92 * light)


def _curve(light: Tensor) -> Tensor:
    """CIE's f."""
    return torch.where(light > 0.008856, light.clamp(min=0.008856) ** (1 / 3), 7.787 * light + 16 / 116)


def _inverse_curve(value: Tensor) -> Tensor:
    return torch.where(value > 0.2068966, value**3, (value - 16 / 116) / 7.787)


def _mixed(planes: Tensor, rows: tuple[tuple[float, ...], ...], divisors: tuple[float, ...]) -> list[Tensor]:
    """For each row, the sum of the three channels by its weights, divided."""
    return [
        (planes[:, 0] * row[0] + planes[:, 1] * row[1] + planes[:, 2] * row[2]) / divisor
        for row, divisor in zip(rows, divisors, strict=True)
    ]


@lru_cache(maxsize=8)
def gamut(grid: float) -> tuple[tuple[float, float], ...]:
    """Points (a, b) of the square grid of this spacing that are the nearest to some colour of sRGB, in order.

    Zhang et al. 2016, arXiv:1603.08511, section 2.1, of whose grid, 10, their list has 313 points. That list reaches a
    little further than what images of 8 bits hold: of all 256³ colours the nearest points are 261. Every third level
    of each channel is tried, which finds the same 261.
    """
    levels = torch.arange(0, 256, 3, dtype=torch.float64) / 255
    found: set[int] = set()  # 256 (a + 128) + b + 128, in steps of the grid
    for red in levels:
        colours = torch.stack([red.expand(86, 86), *torch.meshgrid(levels, levels, indexing="ij")])[None]
        a, b = (rgb_to_lab(colours)[0, 1:] / grid).round().long().flatten(1) + 128  # (86²,) each
        found.update((256 * a + b).tolist())
    return tuple(((place // 256 - 128) * grid, (place % 256 - 128) * grid) for place in sorted(found))
