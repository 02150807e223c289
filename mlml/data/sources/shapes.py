"""Procedural pictures of one coloured shape each, with class, caption, attributes and mask; any number, no network.

Notation: all geometry is in eighths of a pixel, in integers, so that every machine draws the same bytes. A pixel is
sampled at 4x4 points; its coverage is the number of them inside the shape, 0 .. 16. `s` is the picture's side in
pixels; `dx`, `dy` run from the shape's centre to the right and down; `r` is the shape's radius.
"""

from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt

from mlml.config import Declared
from mlml.data.dataset import Raw, Source
from mlml.data.draws import Draws

KINDS = ("circle", "square", "triangle", "diamond", "cross", "ring", "star", "semicircle")
"""The classes."""

MASK_CLASSES = ("background", *KINDS)
"""The classes of pixels."""

_HALF = 8

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
EXTENTS = ("small", "medium", "large")
PLACES = (
    *("at the top left", "at the top", "at the top right"),
    *("on the left", "in the middle", "on the right"),
    *("at the bottom left", "at the bottom", "at the bottom right"),
)

_RGB = (
    *((215, 45, 45), (50, 165, 65), (50, 85, 215), (230, 205, 50)),
    *((140, 60, 190), (235, 130, 35), (50, 195, 205), (235, 140, 185)),
)
_RADIUS = ((11, 14), (17, 20), (24, 28))  # of each extent, lowest and highest, in hundredths of the side
_STAR = ((0, -1000), (951, -309), (588, 809), (-588, 809), (-951, -309))  # its tips on a circle of radius 1000


class Scene(NamedTuple):
    """Everything that a picture shows; `kind`, `colour`, `extent` and `place` index the tuples above."""

    kind: int
    colour: int
    extent: int
    place: int
    radius: int  # eighths of a pixel, as the centre
    center_x: int
    center_y: int
    rgb: tuple[int, int, int]
    background: int  # grey level

    @property
    def caption(self) -> str:
        """Such as "a small red circle at the top left"."""
        return f"a {EXTENTS[self.extent]} {COLOURS[self.colour]} {KINDS[self.kind]} {PLACES[self.place]}"


class Shapes(Source):
    """RGB pictures; the class is the kind of shape, the caption also says its size, colour and place.

    The mask is exact, for it is what the picture was painted by: a pixel is of the shape's kind where at least half of
    its samples lie inside the shape, and background elsewhere. The mixed colours at an edge do not blur it.

    Picture i is a function of (seed, i, size), so a larger count extends a smaller one.
    """

    masked = True
    captioned = True

    class Config(Declared):
        """Number of pictures, their height and width in pixels, and the seed."""

        count: PositiveInt = 5000
        size: Annotated[int, Field(ge=16, le=256)] = 32
        seed: NonNegativeInt = 0

    def read(self) -> Raw:
        count, size = self.config.count, self.config.size
        scenes = [scene(self.config.seed, index, size) for index in range(count)]
        images = np.empty((count, 3, size, size), np.uint8)
        masks = np.empty((count, size, size), np.uint8)
        for image, mask, shown in zip(images, masks, scenes, strict=True):
            covered = coverage(shown, size)
            image[...] = paint(shown, covered)
            mask[...] = (covered >= _HALF) * (1 + shown.kind)
        labels = np.array([shown.kind for shown in scenes], np.int64)
        captions = [shown.caption for shown in scenes]
        return Raw(images, labels, KINDS, captions, masks=masks, mask_classes=MASK_CLASSES)


def scene(seed: int, index: int, size: int) -> Scene:
    """Return what picture `index` of a side of `size` pixels shows.

    The centre keeps the shape whole. Of the range that is left on each axis the three places of PLACES take the
    first, the middle and the last quarter, with gaps between them.
    """
    draws = Draws("shapes", seed, index)
    kind, colour, extent, place = (draws.below(len(names)) for names in (KINDS, COLOURS, EXTENTS, PLACES))
    low, high = _RADIUS[extent]
    radius = draws.between(8 * size * low // 100, 8 * size * high // 100)
    row, column = divmod(place, 3)
    room = 8 * size - 2 * radius
    center_x, center_y = (radius + room * 3 * cell // 8 + draws.between(0, room // 4) for cell in (column, row))
    red, green, blue = (level + draws.between(-15, 15) for level in _RGB[colour])
    return Scene(kind, colour, extent, place, radius, center_x, center_y, (red, green, blue), draws.between(0, 79))


def coverage(shown: Scene, size: int) -> NDArray[np.uint8]:
    """Return the mask of a scene's shape, (size, size), 0 outside to 16 inside."""
    points = np.arange(1, 8 * size, 2, dtype=np.int64)  # (4s,)
    inside = _inside(KINDS[shown.kind], points[None] - shown.center_x, points[:, None] - shown.center_y, shown.radius)
    hits: NDArray[np.uint8] = inside.reshape(size, 4, size, 4).sum((1, 3), dtype=np.uint8)
    return hits


def paint(shown: Scene, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the picture of a scene, (3, h, w), given its coverage."""
    covered = mask.astype(np.int64)
    layers = [(level * covered + shown.background * (16 - covered) + 8) // 16 for level in shown.rgb]
    return np.stack(layers).astype(np.uint8)


def _inside(kind: str, dx: NDArray[np.int64], dy: NDArray[np.int64], r: int) -> NDArray[np.bool_]:
    """Whether points lie in the shape; dx is (1, n), dy (n, 1), the result (n, n)."""
    across, down, squared = abs(dx), abs(dy), dx * dx + dy * dy
    match kind:
        case "circle":
            return squared <= r * r
        case "square":
            return np.maximum(across, down) * 8 <= 7 * r
        case "triangle":  # apex at the top, base of 2 r
            return (4 * dy <= 3 * r) & (across * 7 <= (dy + r) * 4)
        case "diamond":
            return across + down <= r
        case "cross":
            return (np.minimum(across, down) * 3 <= r) & (np.maximum(across, down) <= r)
        case "ring":
            return (squared <= r * r) & (squared * 100 >= 36 * r * r)
        case "star":  # the pentagram: inside at least four of its five lines, each 0.309 r from the centre
            a, b, c, d, e = (np.asarray(dx * x + dy * y <= 309 * r, np.int64) for x, y in _STAR)
            return a + b + c + d + e >= 4
        case "semicircle":  # the upper half, its middle moved to the centre
            return (dx * dx + (dy - r // 2) ** 2 <= r * r) & (2 * dy <= r)
    raise ValueError(f"unknown shape {kind!r}")
