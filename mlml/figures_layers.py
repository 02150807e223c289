"""Heat maps of what training did to each layer: a row for each layer, from input to output; a column for each step.

Notation: `l` layers, `t` measured steps, `c` columns, at most `MAX_COLUMNS`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mlml.figures import LIGHT, Theme, style

Layers = Mapping[str, Mapping[str, Sequence[float | None]]]

MAX_COLUMNS = 80
"""Of many measured steps, so many are shown, evenly spread; the first and the last are among them."""

MAX_NAME = 34
"""Letters of a layer's name that fit beside the map; of a longer one, the end is shown."""

DECADES = 8
"""What is smaller than the largest value by more orders of magnitude than this has the lowest colour, as 0 has."""


class _Panel(NamedTuple):
    title: str
    measures: tuple[str, ...]
    limits: tuple[float, float] | None  # of the colours; in powers of ten if `log`; None: by the values
    log: bool


PANELS = (
    _Panel("gradient norm", ("gradient_norm",), None, True),
    _Panel("activations, root mean square", ("activation_norm",), None, True),
    _Panel("update / weights", ("update_ratio",), (-6.0, 0.0), True),
    _Panel("dead or saturated, share", ("dead", "saturated"), (0.0, 1.0), False),
)


def layers_plot(steps: Sequence[int], layers: Layers, theme: Theme = LIGHT) -> Figure:
    """Plot gradient norms, activations, update ratios, and dead or saturated shares.

    Args:
        steps: at which the layers were measured; t of them.
        layers: t numbers for each measure of each layer; None where there is none.
        theme: the colours.

    Raises:
        ValueError: no layer has a measure that is shown.
    """
    shown = [(panel, rows) for panel in PANELS if (rows := _rows(panel, layers))]
    if not shown:
        raise ValueError("a plot of layers needs at least one measured layer; got none")
    columns = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MAX_COLUMNS)).round().astype(int))
    names = [list(rows) for _, rows in shown]
    labelled = [place == 0 or names[place] != names[place - 1] for place in range(len(shown))]
    height = 1.15 + 0.17 * max(len(rows) for rows in names)
    widths = [2.6 + (1.7 if label else 0.0) for label in labelled]
    with style(theme):
        figure = Figure(figsize=(sum(widths), height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(shown), squeeze=False).flat
        for one, (panel, rows), label in zip(axes, shown, labelled, strict=True):
            values = np.array([[math.nan if v is None else v for v in row] for row in rows.values()], float)  # (l, t)
            _map(one, panel, values[:, columns], [steps[column] for column in columns])
            one.set_yticks(range(len(rows)), [_short(name) for name in rows] if label else [], fontsize=7)
            one.tick_params(axis="y", length=0, labelcolor=theme.ink)
    return figure


def _rows(panel: _Panel, layers: Layers) -> dict[str, Sequence[float | None]]:
    """The series that a panel shows, by layer."""
    return {
        name: measures[measure]
        for name, measures in layers.items()
        for measure in panel.measures
        if measure in measures
    }


def _map(axes: Axes, panel: _Panel, values: Float[NDArray[np.floating], "l c"], steps: Sequence[int]) -> None:
    """Draw one heat map with its colour bar below."""
    low, high = panel.limits or _limits(values)
    if panel.log:
        with np.errstate(divide="ignore"):
            values = np.log10(values).clip(low)  # 0 is the lowest colour
    image = axes.imshow(values, aspect="auto", interpolation="nearest", cmap="viridis", vmin=low, vmax=high)
    axes.set_title(panel.title, loc="left", fontsize=9)
    places = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 4)).round().astype(int))
    axes.set_xticks(places, [f"{steps[place]:,}" for place in places])
    axes.set_xlabel("step")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, location="bottom", fraction=0.06, pad=0.02, aspect=30, shrink=0.8)
    bar.outline.set_visible(False)
    middle = math.floor((low + high) / 2) if panel.log else (low + high) / 2
    ticks = [low, middle, high]
    bar.set_ticks(ticks, labels=[f"$10^{{{tick:.0f}}}$" if panel.log else f"{tick:.1f}" for tick in ticks])


def _limits(values: Float[NDArray[np.floating], "l c"]) -> tuple[float, float]:
    """Whole powers of ten around the positive values, at least two decades and at most `DECADES`."""
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size == 0:
        return -2.0, 0.0
    high = math.ceil(math.log10(positive.max()))
    low = max(math.floor(math.log10(positive.min())), high - DECADES)
    return float(min(low, high - 2)), float(high)


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else "…" + name[1 - MAX_NAME :]
