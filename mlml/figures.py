"""Pictures: grids of images, learning curves, the leaderboard's plot. The same input gives the same bytes.

Notation: `n` images of `c` channels, `h` x `w` pixels, floats in [0, 1]; `r` rows of `s` images.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

MIN_TILE_PIXELS = 56
"""Smaller images are enlarged by a whole factor to at least this size, so that an 8x8 digit can be seen."""

GAP_PIXELS = 4
PAIR_GAP_PIXELS = 12


@dataclass(frozen=True)
class Theme:
    """Colours of a plot on a transparent ground; the series are those of Okabe & Ito 2008, told apart by everyone."""

    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


LIGHT = Theme("#1d2430", "#667085", "#e3e7ed", ("#0072b2", "#d55e00", "#009e73", "#b5578f", "#b57a00", "#3a97d3"))
DARK = Theme("#e6e9ef", "#98a2b3", "#2f3847", ("#56b4e9", "#f08a4b", "#2fc39a", "#e39bc6", "#e6b93d", "#9fd0f2"))


def line_look(theme: Theme, place: int) -> tuple[str, Any]:
    """Colour and dashes of the line at a place; with more lines than colours, each colour comes with other dashes."""
    dashes = ("-", (0, (5, 1.5)), (0, (1, 1.2)))
    return theme.series[place % len(theme.series)], dashes[place // len(theme.series) % len(dashes)]


def image_grid(images: Float[NDArray[np.floating], "n c h w"], columns: int, path: Path) -> None:
    """Write images as a PNG, row by row, `columns` to a row.

    Raises:
        ValueError: no images, not 1 or 3 channels, or values outside of [0, 1].
    """
    tiles = _tiles(images, path)
    _write_rows([[tiles[start : start + columns]] for start in range(0, len(tiles), columns)], GAP_PIXELS, path)


def pairs_grid(
    originals: Float[NDArray[np.floating], "n c h w"],
    reconstructions: Float[NDArray[np.floating], "n c h w"],
    columns: int,
    path: Path,
) -> None:
    """Write a PNG with each row of originals right above the row of their reconstructions.

    Raises:
        ValueError: as `image_grid`, or the two differ in shape.
    """
    if originals.shape != reconstructions.shape:
        shapes = f"{originals.shape} and {reconstructions.shape}"
        raise ValueError(f"{path}: originals and reconstructions must have one shape; got {shapes}")
    above, below = _tiles(originals, path), _tiles(reconstructions, path)
    starts = range(0, len(above), columns)
    rows = [[above[start : start + columns], below[start : start + columns]] for start in starts]
    _write_rows(rows, PAIR_GAP_PIXELS, path)


def rows_grid(images: Float[NDArray[np.floating], "r s c h w"], path: Path) -> None:
    """Write a PNG with one row for each sequence of images, such as an interpolation.

    Raises:
        ValueError: as `image_grid`.
    """
    if images.ndim != 5:
        raise ValueError(f"{path}: rows of images must have shape (r, s, c, h, w); got {images.shape}")
    _write_rows([[_tiles(row, path)] for row in images], GAP_PIXELS, path)


def _tiles(images: Float[NDArray[np.floating], "n c h w"], path: Path) -> UInt8[NDArray[np.uint8], "n H W 4"]:
    """Enlarge images by nearest neighbour to opaque 8-bit RGBA tiles."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"{path}: images must have shape (n, 1 or 3, h, w), none of them 0; got {images.shape}")
    if not (images.min() >= 0 and images.max() <= 1):  # false for nan, too
        raise ValueError(f"{path}: values must be in [0, 1]; got {images.min()} to {images.max()}")
    pixels = np.rint(255 * images).astype(np.uint8).transpose(0, 2, 3, 1)  # (n, h, w, c)
    factor = math.ceil(MIN_TILE_PIXELS / max(images.shape[2:]))
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    colour = np.broadcast_to(pixels, (*pixels.shape[:3], 3))
    return np.concatenate([colour, np.full_like(pixels[..., :1], 255)], axis=3)


def animation(
    frames: Float[NDArray[np.floating], "t n c h w"], columns: int, path: Path, milliseconds: int = 500
) -> None:
    """Write a GIF of a grid of images, `columns` to a row, that changes from frame to frame for ever.

    The last frame stays four times as long as the others.

    Raises:
        ValueError: as `image_grid`.
    """
    if frames.ndim != 5 or not len(frames):
        raise ValueError(f"{path}: frames must have shape (t, n, c, h, w), t not 0; got {frames.shape}")
    drawn = []
    for frame in frames:
        tiles = _tiles(frame, path)
        rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
        canvas = _canvas([rows], GAP_PIXELS, path)
        canvas[canvas[..., 3] == 0] = 255  # a GIF's gaps are white: its transparency leaves the last frame to be seen
        drawn.append(Image.fromarray(canvas[..., :3]).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE))
    path.parent.mkdir(parents=True, exist_ok=True)
    durations = [milliseconds] * (len(drawn) - 1) + [4 * milliseconds]
    drawn[0].save(path, "GIF", save_all=True, append_images=drawn[1:], duration=durations, loop=0, optimize=False)


def _write_rows(groups: Sequence[Sequence[UInt8[NDArray[np.uint8], "s H W 4"]]], gap: int, path: Path) -> None:
    """Write groups of rows of tiles with transparent gaps: `gap` pixels between groups, fewer within them."""
    canvas = _canvas(groups, gap, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(canvas).save(path, "PNG", compress_level=9)


def _canvas(
    groups: Sequence[Sequence[UInt8[NDArray[np.uint8], "s H W 4"]]], gap: int, path: Path
) -> UInt8[NDArray[np.uint8], "H W 4"]:
    """Groups of rows of tiles, as `_write_rows` writes them."""
    if not groups:
        raise ValueError(f"{path}: a grid needs at least one image; got none")
    _, height, width, _ = groups[0][0].shape
    columns = max(len(row) for group in groups for row in group)
    lines = [(row, gap if row is group[-1] else GAP_PIXELS // 2) for group in groups for row in group]
    size = (sum(height + below for _, below in lines) - gap, columns * (width + GAP_PIXELS) - GAP_PIXELS)
    canvas = np.zeros((*size, 4), np.uint8)
    top = 0
    for row, below in lines:
        for column, tile in enumerate(row):
            left = column * (width + GAP_PIXELS)
            canvas[top : top + height, left : left + width] = tile
        top += height + below
    return canvas


def curves(frame: pd.DataFrame, theme: Theme = LIGHT, columns: int = 3) -> Figure:
    """Plot learning curves: one panel for each quantity, a thin line for each seed, a thick one for their mean.

    Args:
        frame: columns `step`, `seed`, then metrics named "<split>/<quantity>"; empty cells are left out.
        theme: the colours.
        columns: panels to a row.

    Raises:
        ValueError: the frame holds no metric with a value.
    """
    metrics = [name for name in frame.columns if name not in ("step", "seed") and frame[name].notna().any()]
    if not metrics:
        raise ValueError("learning curves need at least one metric with a value; the frame holds none")
    splits = list(dict.fromkeys([name.rpartition("/")[0] for name in metrics]))
    quantities = list(dict.fromkeys(name.rpartition("/")[2] for name in metrics))
    columns = min(columns, len(quantities))
    rows = math.ceil(len(quantities) / columns)
    with style(theme):
        figure = Figure(figsize=(3.9 * columns, 2.5 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, quantity in zip(panels, quantities, strict=False):
            for metric in metrics:
                split, _, own = metric.rpartition("/")
                if own == quantity:
                    colour = theme.series[splits.index(split) % len(theme.series)]
                    _curve(axes, frame[["step", "seed", metric]].dropna(), metric, split, colour)
            axes.set_title(quantity.replace("_", " "), loc="left")
            axes.set_xlabel("step")
            axes.legend()
        for axes in panels[len(quantities) :]:
            axes.set_axis_off()
    return figure


def _curve(axes: Axes, frame: pd.DataFrame, metric: str, label: str, colour: str) -> None:
    """Draw one metric; the mean stands only where every seed has a value, or it would jump where a seed ends."""
    seeds = frame.groupby("seed")
    if len(seeds) > 1:
        for _, one in seeds:
            axes.plot(one["step"], one[metric], color=colour, linewidth=0.8, alpha=0.4)
    mean = frame.groupby("step")[metric].agg(["mean", "count"])
    mean = mean[mean["count"] == len(seeds)]
    marker = "o" if len(mean) == 1 else None
    axes.plot(mean.index, mean["mean"], color=colour, linewidth=1.8, marker=marker, markersize=4, label=label or metric)


def leaderboard_plot(frame: pd.DataFrame, theme: Theme = LIGHT) -> Figure:
    """Plot test accuracies as dots with intervals: a row for each encoder, a colour for each probe.

    Args:
        frame: rows of `mlml.report.leaderboard` of one data set, in its order. Baselines come last, hollow; a dotted
            line marks each random encoder.
        theme: the colours.
    """
    probes = list(frame["probe"].unique())
    encoders = [*frame[~frame["baseline"]]["encoder"].unique(), *frame[frame["baseline"]]["encoder"].unique()]
    with style(theme):
        figure = Figure(figsize=(10.4, 0.9 + 0.42 * len(encoders)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for number, probe in enumerate(probes):
            colour = theme.series[number % len(theme.series)]
            offset = 0.0 if len(probes) == 1 else 0.34 * (number / (len(probes) - 1) - 0.5)
            axes.plot([], [], "o", color=colour, markersize=6, label=probe)
            _dots(axes, frame[frame["probe"] == probe], encoders, offset, colour)
        axes.set_yticks(range(len(encoders)), encoders)
        axes.set_ylim(len(encoders) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelcolor=theme.ink, labelsize=9.5)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(8))
        axes.set_xlabel("test accuracy, %")
        figure.legend(loc="outside upper left", ncols=len(probes), handletextpad=0.1)
    return figure


def _dots(axes: Axes, frame: pd.DataFrame, encoders: list[str], offset: float, colour: str) -> None:
    """Draw the encoders under one probe."""
    for row in frame.to_dict("records"):
        x, y = 100 * row["mean"], encoders.index(row["encoder"]) + offset
        if row["method"] == "random":
            axes.axvline(x, color=colour, linewidth=1, linestyle=(0, (1, 2)), alpha=0.7, zorder=1)
        if not pd.isna(row["interval95"]):
            axes.errorbar(x, y, xerr=100 * row["interval95"], color=colour, linewidth=1.6, alpha=0.55, zorder=2)
        fill = "none" if row["baseline"] else colour
        axes.plot(x, y, "o", color=colour, markersize=7, markerfacecolor=fill, markeredgewidth=1.6, zorder=3)


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, without a time or the version of the software in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with style(LIGHT):
        figure.savefig(path, format="png", dpi=160, metadata={"Software": None})


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG, without a time in it."""
    buffer = io.BytesIO()
    with style(LIGHT):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


@contextmanager
def style(theme: Theme) -> Iterator[None]:
    """Draw by these settings alone, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.size": 9,
                "axes.titlesize": 10,
                "axes.titleweight": "bold",
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "legend.frameon": False,
                "figure.facecolor": "none",
                "axes.facecolor": "none",
                "savefig.facecolor": "none",
                "text.color": theme.ink,
                "axes.titlecolor": theme.ink,
                "axes.labelcolor": theme.muted,
                "axes.edgecolor": theme.grid,
                "xtick.color": theme.grid,
                "ytick.color": theme.grid,
                "xtick.labelcolor": theme.muted,
                "ytick.labelcolor": theme.muted,
                "grid.color": theme.grid,
                "grid.linewidth": 0.8,
                "svg.hashsalt": "mlml",  # ids inside the file, drawn at random by default
                "svg.fonttype": "path",
            }
        )
        yield
