"""Pictures of how a search went: its history, what mattered, and the Pareto front."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlml.config import SearchConfig
from mlml.figures import LIGHT, Theme, style
from mlml.search._front import objectives, pareto_front
from mlml.search._importance import importances
from mlml.search._panels import panels, ring, scale_to_metric, values_of
from mlml.search._study import Record, best

MAX_NUMBERED = 12
"""Trials of a front that are called by their number; more would cover each other."""

ROOM = 0.045, 0.05
"""Of a panel's width and height: what a trial's number takes."""


def history_plot(config: SearchConfig, records: Sequence[Record], theme: Theme = LIGHT) -> Figure:
    """Plot the value of each trial by its number, and the best value so far."""
    figure, (axes,) = panels(theme, 1, 1, (7.0, 3.4))
    blue, orange = theme.series[:2]
    complete = [record for record in records if record.state == "complete"]
    pruned = [record for record in records if record.state == "pruned"]
    failed = [record.number for record in records if record.state == "failed"]
    leaders = [best(complete[: count + 1], config.direction) for count in range(len(complete))]
    numbers = [record.number for record in complete]
    last = max((record.number for record in records), default=0)
    so_far = values_of([*leaders, *leaders[-1:]])
    with style(theme):
        axes.step([*numbers, last], so_far, where="post", color=orange, linewidth=1.8, label="best so far")
        axes.plot(numbers, values_of(complete), "o", color=blue, markersize=5, label="complete")
        if pruned:
            at, values = [record.number for record in pruned], values_of(pruned)
            label = "pruned (last evaluation)"
            axes.plot(at, values, "v", color=theme.muted, markersize=5, markerfacecolor="none", label=label)
        if failed:
            bottom = axes.get_xaxis_transform()
            axes.plot(
                failed, [0.03] * len(failed), "x", color=theme.ink, markersize=5, transform=bottom, label="failed"
            )
        scale_to_metric(
            axes, [value for value in values_of([*complete, *pruned]) if not math.isnan(value)], config.direction
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trial")
        axes.set_ylabel(config.metric)
        figure.legend(loc="outside upper left", ncols=4)
    return figure


def importance_plot(
    config: SearchConfig,
    records: Sequence[Record],
    theme: Theme = LIGHT,
    shares: Mapping[str, float] | None = None,
) -> Figure:
    """Plot the importances as bars, the largest on top; where there are none, the figure says why.

    `shares` are the importances, if they are known.
    """
    figure, (axes,) = panels(theme, 1, 1, (7.0, 0.9 + 0.36 * max(2, len(config.space))))
    with style(theme):
        try:
            shares = shares or importances(config, records)
        except ValueError as error:
            axes.set_axis_off()
            text = f"no importances: {error}"
            axes.text(0.5, 0.5, text, ha="center", va="center", color=theme.muted, transform=axes.transAxes)
            return figure
        positions = range(len(shares))
        bars = axes.barh(positions, list(shares.values()), color=theme.series[0], height=0.6)
        axes.bar_label(bars, [f"{100 * share:.0f} %" for share in shares.values()], padding=4, color=theme.muted)
        axes.set_yticks(positions, list(shares))
        axes.tick_params(axis="y", length=0, labelcolor=theme.ink)
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.08)
        axes.set_xlabel(f"share of the variance of {config.metric} (fANOVA)")
    return figure


def front_plot(config: SearchConfig, records: Sequence[Record], theme: Theme = LIGHT) -> Figure | None:
    """Plot the complete trials by each pair of objectives, those of the Pareto front marked; None for one objective.

    The line of two objectives is the border of what the front dominates. Of more objectives there is no line: a trial
    of the front may be dominated in two of them.
    """
    pairs = list(combinations(config.directions, 2))
    if not pairs:
        return None
    columns = min(3, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    size = (7.0, 4.2) if len(pairs) == 1 else (3.7 * columns, 3.3 * rows + 0.4)
    figure, axes = panels(theme, rows, columns, size)
    for panel, pair in zip(axes, pairs, strict=False):
        _front_panel(panel, config, records, pair, theme)
    for panel in axes[len(pairs) :]:
        panel.set_axis_off()
    with style(theme):
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3)
    return figure


def _front_panel(
    axes: Axes, config: SearchConfig, records: Sequence[Record], pair: tuple[str, str], theme: Theme
) -> None:
    front = pareto_front(records, config)
    points = {r.number: _point(r, config, pair) for r in records if r.state == "complete"}
    of_front = [points[record.number] for record in front]
    beaten = [points[number] for number in points.keys() - {record.number for record in front}]
    orange = theme.series[1]
    with style(theme):
        x, y = zip(*points.values(), strict=True)
        scale_to_metric(axes, x, config.directions[pair[0]], "x")
        scale_to_metric(axes, y, config.directions[pair[1]], "y")
        if len(config.directions) == 2:
            where: Literal["pre", "post"] = "post" if config.directions[pair[0]] == "minimize" else "pre"
            x, y = zip(*sorted(of_front), strict=True)
            axes.step(x, y, where=where, color=orange, linewidth=1.4, alpha=0.7, zorder=2)
        axes.plot(*_columns(beaten), "o", color=theme.muted, markersize=4.5, alpha=0.6, label="dominated", zorder=3)
        label = "Pareto front, with the trials' numbers" if len(front) <= MAX_NUMBERED else "Pareto front"
        axes.plot(*_columns(of_front), "o", color=orange, markersize=6, label=label, zorder=4)
        label = f"best {config.metric}"
        axes.plot(*of_front[0], label=label, zorder=5, **ring(theme.ink, 11))
        axes.set(
            **{
                f"{which}label": f"{metric} ({config.directions[metric]})"
                for metric, which in zip(pair, "xy", strict=True)
            }
        )
        axes.margins(0.09)
    if len(front) <= MAX_NUMBERED:
        _number(axes, [record.number for record in front], of_front, theme)


def _point(record: Record, config: SearchConfig, pair: tuple[str, str]) -> tuple[float, float]:
    values = objectives(record, config)
    return values[pair[0]], values[pair[1]]


def _columns(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    return [[point[place] for point in points] for place in range(2)]


def _number(axes: Axes, numbers: Sequence[int], points: Sequence[tuple[float, float]], theme: Theme) -> None:
    """Write the trials' numbers beside their points, but for those that would lie on an earlier one."""
    to_panel = axes.transData + axes.transAxes.inverted()
    taken: list[tuple[float, float]] = []
    axes.autoscale_view()
    for number, point in zip(numbers, points, strict=True):
        x, y = to_panel.transform(point)
        if all(abs(x - left) > ROOM[0] or abs(y - below) > ROOM[1] for left, below in taken):
            taken.append((x, y))
            axes.annotate(f"{number}", point, (6, 6), textcoords="offset points", color=theme.ink, fontsize=8)
