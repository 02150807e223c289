"""What the pictures of a search share: panels, colours, and the scales on their axes."""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from mlml.config import Direction, IntDimension
from mlml.figures import Theme, style
from mlml.search._scale import Numeric, is_log, tick, value_at
from mlml.search._study import Record

MARGIN = 0.05
"""Of an axis, on each side of the range that it shows."""


def panels(
    theme: Theme, rows: int, columns: int, size: tuple[float, float], **layout: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `size` inches and its panels, row by row; `layout` goes to matplotlib's `subplots`."""
    with style(theme):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        found = figure.subplots(rows, columns, squeeze=False, **layout)
    return figure, list(found.flat)


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Write above the panels what their marks mean, each once."""
    found = {label: mark for panel in axes for mark, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside upper left", ncols=5)


def ordered_colours(theme: Theme) -> Colormap:
    """Colours for values with an order, from faint to strong on the theme's ground."""
    grid, blue, ink = (np.array(to_rgb(colour)) for colour in (theme.grid, theme.series[0], theme.ink))
    return LinearSegmentedColormap.from_list("ordered", [0.7 * grid + 0.3 * blue, blue, 0.3 * blue + 0.7 * ink])


def ring(colour: str, size: float) -> dict[str, Any]:
    """Look of a ring around a point, for `plot`."""
    look = {"markeredgecolor": colour, "markersize": size, "markerfacecolor": "none", "markeredgewidth": 1.8}
    return {"marker": "o", "linestyle": "none", **look}


def colours_of(values: Sequence[float], direction: Direction, theme: Theme) -> tuple[Colormap, Normalize]:
    """Colours of a metric's values, the better the stronger."""
    colours = ordered_colours(theme)
    low, high = min(values), max(values)
    if low == high:  # one colour, with a scale around it for the bar
        low, high = low - 0.5, high + 0.5
    norm = LogNorm(low, high) if is_log(values, direction) else Normalize(low, high)
    return colours if direction == "maximize" else colours.reversed(), norm


def scale_to_range(axes: Axes, dimension: Numeric, which: Literal["x", "y"]) -> None:
    """Show the whole range of a dimension on its own scale, on one axis."""
    scale = "log" if dimension.log else "linear"
    ends = value_at(dimension, -MARGIN), value_at(dimension, 1 + MARGIN)
    if which == "x":
        axes.set(xscale=scale, xlim=ends)
    else:
        axes.set(yscale=scale, ylim=ends)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(ticks(dimension)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: tick(float(value)))


def ticks(dimension: Numeric) -> list[float]:
    """Return a few round numbers within the range of a dimension; of an int with a step, values that it has."""
    low, high = float(dimension.low), float(dimension.high)
    if dimension.log:
        for subs in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)):
            found = _within(LogLocator(subs=subs, numticks=99).tick_values(low, high), low, high)
            if len(found) >= 3:
                return found[:: (len(found) + 4) // 5]
        return [low, high]
    if isinstance(dimension, IntDimension) and dimension.step > 1:
        values = range(dimension.low, dimension.high + 1, dimension.step)
        return [float(value) for value in values[:: -(-len(values) // 5)]]
    whole = isinstance(dimension, IntDimension)
    return _within(MaxNLocator(4, integer=whole).tick_values(low, high), low, high)


def _within(values: Sequence[float], low: float, high: float) -> list[float]:
    slack = 1e-9 * (high - low)
    return [float(value) for value in values if low - slack <= value <= high + slack]


def values_of(records: Sequence[Record]) -> list[float]:
    """Values of trials; a gap where there is none."""
    return [math.nan if record.value is None else record.value for record in records]


def scale_to_metric(axes: Axes, values: Sequence[float], direction: Direction, which: Literal["x", "y"] = "y") -> None:
    """Put a metric's axis on a log scale where its values call for one."""
    if is_log(values, direction):
        (axes.set_yscale if which == "y" else axes.set_xscale)("log")


def wrapped(name: str, width: int) -> str:
    """Break a name into lines of `width` letters; after dots and slashes, else underscores and spaces, or anywhere."""
    lines = [""]
    for part in re.findall(r"[^./]*[./]?", name):
        pieces = [part] if len(part) <= width else re.findall(r"[^_ ]*[_ ]?", part)
        for piece in pieces:
            for start in range(0, len(piece), width):
                if lines[-1] and len(lines[-1]) + len(piece[start : start + width]) > width:
                    lines.append("")
                lines[-1] += piece[start : start + width]
    return "\n".join(line.strip() for line in lines)
