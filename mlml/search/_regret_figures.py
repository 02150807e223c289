"""Pictures of a comparison of samplers: regret by trial, and where it ends.

Regrets span orders of magnitude, so their axis is logarithmic. A mean's interval may reach below 0, and a regret may be
0: both end at the lower edge of the picture, half of the lowest regret that is not 0.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mlml.figures import Theme, style
from mlml.search._regret import Regrets, final, mean
from mlml.statistics import summarise

COLUMNS = 4


def curve(of: Mapping[int, Float[NDArray[np.floating], " t"]]) -> Float[NDArray[np.floating], "3 t"]:
    """Return the mean over seeds after each trial and the ends of its 95 % interval.

    NaN where a seed has no complete trial yet; the ends are the mean for a single seed.
    """
    rows = []
    for values in np.stack(list(of.values()), axis=1):  # (s,), of one trial
        if np.isnan(values).any():
            rows.append((math.nan,) * 3)
            continue
        summary = summarise(dict(enumerate(values.tolist())))
        middle, half = summary["mean"] or 0.0, summary["interval95"] or 0.0
        rows.append((middle, middle - half, middle + half))
    return np.array(rows).T


def lower_edge(values: Iterable[float]) -> float:
    """Return where the axis of some regrets begins: half of the lowest that is not 0."""
    positive = [value for value in values if value > 0]  # not NaN either
    return 0.5 * min(positive) if positive else 1e-12


def plot_curves(found: Regrets, random: str | None, quantity: str, theme: Theme) -> Figure:
    """Draw a panel for each search: its mean and interval, random search dashed, the others thin behind."""
    curves = {label: curve(of) for label, of in found.items()}
    edge = lower_edge(value for each in curves.values() for value in each[0])
    columns = min(COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    with style(theme):
        figure = Figure(figsize=(2.7 * columns, 2.2 * rows + 0.3), layout="constrained")
        FigureCanvasAgg(figure)
        panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
        for place, (label, axes) in enumerate(zip(curves, panels, strict=False)):
            _panel(axes, curves, label, random, edge, theme)
            if place + columns >= len(curves):
                axes.set_xlabel("trials")
                axes.tick_params(labelbottom=True)
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        figure.supylabel(quantity, color=theme.muted, fontsize=9)
    return figure


def _panel(
    axes: Axes,
    curves: Mapping[str, Float[NDArray[np.floating], "3 t"]],
    label: str,
    random: str | None,
    edge: float,
    theme: Theme,
) -> None:
    for other, (middle, _, _) in curves.items():
        trials = np.arange(1, len(middle) + 1)
        if other == label:
            continue
        if other == random:
            axes.plot(trials, np.maximum(middle, edge), color=theme.muted, linewidth=1.2, linestyle=(0, (4, 2)))
        else:
            axes.plot(trials, np.maximum(middle, edge), color=theme.muted, linewidth=0.8, alpha=0.4)
    middle, low, high = np.maximum(curves[label], edge)
    trials = np.arange(1, len(middle) + 1)
    axes.fill_between(trials, low, high, color=theme.series[0], alpha=0.18, linewidth=0)
    axes.plot(trials, middle, color=theme.series[0], linewidth=1.8, label=label)
    axes.set_title(label, loc="left")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.9 * edge)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def plot_ends(found: Regrets, random: str | None, quantity: str, theme: Theme) -> Figure:
    """Draw the regret after the last trial: a dot for each seed, the mean and its interval; the lowest on top."""
    ends = final(found)
    order = sorted(ends, key=lambda label: mean(ends[label]))
    edge = lower_edge(value for of in ends.values() for value in of.values())
    with style(theme):
        figure = Figure(figsize=(7.0, 0.9 + 0.38 * len(order)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for place, label in enumerate(order):
            values = np.maximum(list(ends[label].values()), edge)
            axes.plot(values, np.full(len(values), place), "o", color=theme.series[0], markersize=4, alpha=0.35)
            summary = summarise(ends[label])
            middle, half = summary["mean"] or 0.0, summary["interval95"] or 0.0
            span = np.maximum([middle - half, middle + half], edge)
            axes.plot(span, [place, place], color=theme.series[1], linewidth=2)
            axes.plot(max(middle, edge), place, "D", color=theme.series[1], markersize=6)
        if random is not None:
            at = max(mean(ends[random]), edge)
            axes.axvline(at, color=theme.muted, linewidth=1, linestyle=(0, (4, 2)), zorder=0)
        axes.set_xscale("log")
        axes.set_xlim(left=edge * 0.8)
        axes.set_yticks(range(len(order)), order, color=theme.ink)
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
        zeros = any(value == 0 for of in ends.values() for value in of.values())
        axes.set_xlabel(quantity + (" (0: at the left edge)" if zeros else ""))
    return figure
