"""Picture of the metric against each dimension."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlml.config import CategoricalDimension, Dimension, SearchConfig
from mlml.figures import LIGHT, Theme, style
from mlml.search._panels import (
    legend,
    ordered_colours,
    panels,
    ring,
    scale_to_metric,
    scale_to_range,
    values_of,
    wrapped,
)
from mlml.search._scale import choice_place, short_names, written
from mlml.search._study import Record, best

_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, never come close to one another


def slices_plot(config: SearchConfig, records: Sequence[Record], theme: Theme = LIGHT) -> Figure:
    """Plot the metric against each dimension, coloured by the trial's number, the best marked.

    A trial has no point in the panel of a dimension that it did not draw.
    """
    names = short_names(config.space)
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = panels(theme, rows, columns, (max(6.0, 3.2 * columns + 0.9), 2.7 * rows + 0.5), sharey=True)
    values = [record.value for record in records if record.value is not None]
    norm = Normalize(0, max(1, *(record.number for record in records), 1))
    with style(theme):
        scale_to_metric(axes[0], values, config.direction)
        for place, (panel, path) in enumerate(zip(axes, names, strict=False)):
            _slice(panel, config, records, path, norm, theme)
            _name(panel, names[path], config.space[path], sum(path in r.parameters for r in records), len(records))
            if place % columns == 0:
                panel.set_ylabel(config.metric)
        for panel in axes[len(names) :]:
            panel.set_axis_off()
        mapped = ScalarMappable(norm, ordered_colours(theme))
        bar = figure.colorbar(mapped, ax=axes, label="trial", aspect=30, pad=0.01, ticks=MaxNLocator(5, integer=True))
        bar.outline.set_visible(False)
        legend(figure, axes)
    return figure


def _slice(
    axes: Axes, config: SearchConfig, records: Sequence[Record], path: str, norm: Normalize, theme: Theme
) -> None:
    """Draw the trials over one dimension."""
    dimension = config.space[path]
    if isinstance(dimension, CategoricalDimension):
        axes.set_xlim(-0.6, len(dimension.choices) - 0.4)
        axes.grid(axis="x", visible=False)
    else:
        scale_to_range(axes, dimension, "x")
    places = {record.number: _place(dimension, record, path) for record in records if path in record.parameters}
    drawn = [record for record in records if record.number in places]
    complete, pruned, failed = ([r for r in drawn if r.state == state] for state in ("complete", "pruned", "failed"))
    if pruned:
        at, values = [places[record.number] for record in pruned], values_of(pruned)
        label = "pruned (last evaluation)"
        axes.plot(at, values, "v", color=theme.muted, markerfacecolor="none", markersize=4, label=label)
    if failed:
        at, bottom = [places[record.number] for record in failed], axes.get_xaxis_transform()
        axes.plot(at, [0.03] * len(at), "x", color=theme.ink, markersize=4, transform=bottom, label="failed")
    at, values = [places[record.number] for record in complete], values_of(complete)
    numbers = [record.number for record in complete]
    axes.scatter(at, values, s=22, c=numbers, cmap=ordered_colours(theme), norm=norm, zorder=3)
    found = best(records, config.direction)
    if path in found.parameters:
        axes.plot([places[found.number]], values_of([found]), label="best", zorder=4, **ring(theme.series[1], 10))


def _place(dimension: Dimension, record: Record, path: str) -> float:
    """Where a trial stands on the axis: at its value, or in the strip of its choice, apart from the others."""
    value = record.parameters[path]
    if isinstance(dimension, CategoricalDimension):
        return choice_place(dimension, value) + 0.5 * ((record.number * _GOLDEN) % 1 - 0.5)
    return float(value)


def _name(axes: Axes, name: str, dimension: Dimension, drawn: int, trials: int) -> None:
    """Write the dimension's name below its panel, and how many trials drew it where not all did."""
    axes.set_xlabel(name if drawn == trials else f"{name}\n(drawn in {drawn} of {trials} trials)")
    if isinstance(dimension, CategoricalDimension):
        labels = [wrapped(written(choice), 14) for choice in dimension.choices]
        crowded = sum(max(map(len, label.split("\n"))) + 2 for label in labels) > 36
        axes.set_xticks(range(len(labels)), labels)
        if crowded:
            axes.tick_params(axis="x", rotation=30)
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
