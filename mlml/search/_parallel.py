"""Picture of all trials at once: parallel coordinates (Inselberg 1985, doi:10.1007/BF01898350)."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator

from mlml.config import CategoricalDimension, Dimension, SearchConfig
from mlml.figures import LIGHT, Theme, style
from mlml.search._panels import colours_of, legend, panels, ticks, wrapped
from mlml.search._scale import choice_place, is_log, share, short_names, tick, written
from mlml.search._study import Record, best

NOT_DRAWN = -0.16
"""Height of a trial on the axis of a dimension that it did not draw; the axis goes from 0 to 1."""


def parallel_plot(config: SearchConfig, records: Sequence[Record], theme: Theme = LIGHT) -> Figure | None:
    """Plot each trial as a line over one axis for each dimension and, last, the metric; None for a single dimension.

    The better a complete trial, the stronger its line; the best stands out. Pruned and failed trials are grey and end
    before the metric, which they did not come to.
    """
    names = short_names(config.space)
    if len(names) < 2:
        return None  # its slice says all
    width = max(6.0, 1.45 * (len(names) + 1) + 0.8)
    figure, (axes,) = panels(theme, 1, 1, (width, 3.8))
    complete = [record for record in records if record.state == "complete"]
    values = [record.value for record in complete if record.value is not None]
    colours, norm = colours_of(values, config.direction, theme)
    leader = best(complete, config.direction)
    with style(theme):
        for record in records:
            if record.state != "complete":
                heights = _heights(config, record)
                label = "pruned or failed"
                axes.plot(range(len(heights)), heights, color=theme.muted, linewidth=0.7, alpha=0.5, label=label)
        alpha = max(0.3, min(0.85, 60 / len(complete)))  # many lines would hide each other
        sign = 1 if config.direction == "minimize" else -1
        for record in sorted(complete, key=lambda record: -sign * (record.value or 0.0)):  # the better above
            heights = [*_heights(config, record), _height(record.value or 0.0, values, config)]
            colour = colours(norm(record.value or 0.0))
            axes.plot(range(len(heights)), heights, color=colour, linewidth=1.1, alpha=alpha, zorder=2)
        heights = [*_heights(config, leader), _height(leader.value or 0.0, values, config)]
        orange = theme.series[1]
        label = f"best, trial {leader.number}"
        axes.plot(range(len(heights)), heights, "o-", color=orange, linewidth=2.4, markersize=5, label=label, zorder=4)
        for place, (path, name) in enumerate(names.items()):
            _axis(axes, place, _marks(config.space[path]), wrapped(name, 15), theme)
        _axis(axes, len(names), _metric_marks(values, config), wrapped(config.metric, 15), theme)
        for place, path in enumerate(names):
            if any(path not in record.parameters for record in records):
                axes.text(place, NOT_DRAWN - 0.03, "not drawn", ha="center", va="top", color=theme.muted, fontsize=8)
        axes.set_xlim(-0.2, len(names) + 0.55)
        axes.set_axis_off()
        legend(figure, [axes])
    return figure


def _heights(config: SearchConfig, record: Record) -> list[float]:
    """Heights of a trial over the axes of the dimensions."""
    found = []
    for path, dimension in config.space.items():
        if path not in record.parameters:
            found.append(NOT_DRAWN)
        elif isinstance(dimension, CategoricalDimension):
            found.append(choice_place(dimension, record.parameters[path]) / (len(dimension.choices) - 1))
        else:
            found.append(share(dimension, record.parameters[path]))
    return found


def _height(value: float, values: Sequence[float], config: SearchConfig) -> float:
    """Height of a value over the metric's axis, which goes from the smallest to the largest."""
    low, high = min(values), max(values)
    if low == high:
        return 0.5
    if is_log(values, config.direction):
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _marks(dimension: Dimension) -> dict[float, str]:
    """Texts along the axis of a dimension, by height."""
    if isinstance(dimension, CategoricalDimension):
        last = len(dimension.choices) - 1
        return {place / last: wrapped(written(choice), 14) for place, choice in enumerate(dimension.choices)}
    return {share(dimension, value): tick(value) for value in ticks(dimension)}


def _metric_marks(values: Sequence[float], config: SearchConfig) -> dict[float, str]:
    """Texts along the metric's axis, by height."""
    low, high = min(values), max(values)
    if low == high:
        return {0.5: written(low)}
    log = is_log(values, config.direction)
    locator = LogLocator(subs=(1, 3), numticks=99) if log else MaxNLocator(5)
    marks = [float(value) for value in locator.tick_values(low, high) if low <= value <= high]
    return {_height(value, values, config): written(value) for value in marks}


def _axis(axes: Axes, place: int, marks: dict[float, str], name: str, theme: Theme) -> None:
    """Draw one axis: a line, its marks, its name above."""
    axes.plot([place, place], [0, 1], color=theme.muted, linewidth=1, zorder=3)
    halo = [withStroke(linewidth=2.5, foreground="white", alpha=0.85)]
    for height, text in marks.items():
        axes.plot([place, place + 0.035], [height, height], color=theme.muted, linewidth=1, zorder=3)
        where = (place + 0.06, height)
        axes.text(*where, text, va="center", color=theme.ink, fontsize=8, path_effects=halo, zorder=5)
    axes.text(place, 1.06, name, ha="center", va="bottom", color=theme.ink, fontsize=9)
