"""Pictures of predictions: confusion matrix, masks, the most confident mistakes, and what a pretext makes of images.

Notation as in `mlml.predictions`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from mlml.predictions import Examples

INK, MUTED, GRID = "#1d2430", "#667085", "#e3e7ed"
"""Those of `mlml.figures.LIGHT`, whose module imports pandas, which takes longer than to draw."""

MAX_NUMBERED = 20
"""Classes up to which each cell of a confusion matrix shows its number."""

PALETTE = tuple(
    to_rgb(colour)
    for name in ("tab10", "Set2")
    for place, colour in enumerate(matplotlib.colormaps[name].colors)  # type: ignore[attr-defined]
    if (name, place) not in (("tab10", 7), ("Set2", 7))  # greys
)
"""Colours of the classes of pixels but the background, which is light grey; with more classes they repeat."""


def write_confusion(confusion: Int[NDArray[np.int64], "k k"], classes: Sequence[str], path: Path) -> None:
    """Write the confusion matrix as a PNG: a row for each true class, in percent of its examples; empty without any.

    Raises:
        ValueError: as many classes as rows are not given.
    """
    if confusion.shape != (len(classes), len(classes)):
        raise ValueError(
            f"{path}: the confusion of {len(classes)} classes must be as many rows and columns; got {confusion.shape}"
        )
    shares = 100 * confusion / confusion.sum(1, keepdims=True).clip(min=1)  # (k, k)
    side = min(2.2 + 0.42 * len(classes), 11.0)
    with _drawn((side + 0.6, side), path) as figure:
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), classes)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(f"percent of each true class; {int(confusion.sum()):,} in all", loc="left", fontsize=9)
        if len(classes) <= MAX_NUMBERED:
            for row, column in np.argwhere(confusion > 0):
                share = shares[row, column]
                text, colour = "<1" if share < 0.5 else f"{share:.0f}", "white" if share > 50 else INK
                axes.text(column, row, text, ha="center", va="center", color=colour)


def write_masks(examples: Examples, classes: Sequence[str], path: Path) -> None:
    """Write a PNG of three rows: images, their true masks, and the predicted ones; with the colour of each class."""
    colours = np.array([to_rgb(GRID), *(PALETTE[kind % len(PALETTE)] for kind in range(len(classes) - 1))])
    rows = [_rgb(examples.images), colours[examples.truth], colours[examples.predicted]]  # of (n, h, w, 3)
    with _drawn((1.0 + 0.95 * len(examples.images), 3.6), path) as figure:
        grid = figure.subplots(3, len(examples.images), squeeze=False)
        for line, pictures, label in zip(grid, rows, ("image", "true", "predicted"), strict=True):
            for place, picture in zip(line, pictures, strict=True):
                _picture(place, picture)
            line[0].set_ylabel(label, rotation=0, ha="right", va="center")
        shown = np.union1d(examples.truth, examples.predicted)
        keys = [Patch(facecolor=colours[kind], edgecolor=MUTED, label=classes[kind]) for kind in shown]
        figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 10), frameon=False)


def write_mistakes(mistakes: Examples, classes: Sequence[str], path: Path, columns: int = 8) -> None:
    """Write a PNG of images that were taken for another class, each with its true class and the predicted one.

    Raises:
        ValueError: there are none.
    """
    if not len(mistakes.images):
        raise ValueError(f"{path}: a picture of mistakes needs at least one; got none")
    rows = math.ceil(len(mistakes.images) / columns)
    with _drawn((1.25 * columns, 1.6 * rows), path) as figure:
        places = list(figure.subplots(rows, columns, squeeze=False).flat)
        for place, picture, true, taken in zip(places, _rgb(mistakes.images), *mistakes[1:], strict=False):
            _picture(place, picture)
            place.set_title(f"{classes[true]}\nnot {classes[taken]}", fontsize=7.5)
        for place in places[len(mistakes.images) :]:
            place.set_axis_off()


def write_sheet(rows: Mapping[str, Float[NDArray[np.floating], "n c h w"]], path: Path) -> None:
    """Write a PNG with a row of n pictures for each name, such as an image, what hides a part of it, and a prediction.

    Args:
        rows: pictures in [0, 1] by the name of their row, first row first.
        path: of the PNG.
    """
    columns = len(next(iter(rows.values())))
    with _drawn((1.0 + 0.95 * columns, 0.2 + 1.0 * len(rows)), path) as figure:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for line, (name, pictures) in zip(grid, rows.items(), strict=True):
            for place, picture in zip(line, _rgb(pictures), strict=True):
                _picture(place, picture)
            line[0].set_ylabel(name, rotation=0, ha="right", va="center")


@contextmanager
def _drawn(inches: tuple[float, float], path: Path) -> Iterator[Figure]:
    """A figure on white, which is written once the body has drawn it: without a time or a version in it."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        matplotlib.rcParams.update({"font.size": 9, "text.color": INK, "axes.labelcolor": INK})
        figure = Figure(figsize=inches, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=130, metadata={"Software": None})


def _rgb(images: Float[NDArray[np.floating], "n c h w"]) -> Float[NDArray[np.floating], "n h w 3"]:
    pixels = images.transpose(0, 2, 3, 1)
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


def _picture(place: Axes, picture: Float[NDArray[np.floating], "h w 3"]) -> None:
    place.imshow(picture, interpolation="nearest", vmin=0, vmax=1)
    place.set_xticks([])
    place.set_yticks([])
    for spine in place.spines.values():
        spine.set_visible(False)
