"""Picture of the metric over pairs of dimensions."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mlml.config import SearchConfig
from mlml.figures import LIGHT, Theme, style
from mlml.search._importance import known
from mlml.search._panels import colours_of, legend, panels, ring, scale_to_range
from mlml.search._posterior import posterior
from mlml.search._scale import is_log, numeric, share, short_names, value_at
from mlml.search._study import Record, best

MIN_TRIALS = 6
"""Complete trials with both dimensions, for a surface through them to say something."""

MAX_FITTED = 400
"""Trials that a surface is fitted to, evenly chosen by number: the time of a fit grows with their cube."""

GRID = 41
"""Places of a surface along each dimension."""

LEVELS = 14


def contour_plot(
    config: SearchConfig,
    records: Sequence[Record],
    theme: Theme = LIGHT,
    shares: Mapping[str, float] | None = None,
) -> Figure | None:
    """Plot the metric over pairs of the two or three numeric dimensions that matter most, with the trials as dots.

    The surface is the mean of a Gaussian process over the two; what the other dimensions do is noise to it. None with
    fewer than two numeric dimensions, with too few complete trials that drew both, and where the metric is constant.
    `shares` are the importances, if they are known.
    """
    complete = [record for record in records if record.state == "complete"]
    pairs = combinations(_most_important(config, known(config, records) if shares is None else shares), 2)
    found = {pair: surface for pair in pairs if (surface := _surface(config, complete, pair)) is not None}
    if not found:
        return None
    names = short_names(config.space)
    figure, axes = panels(theme, 1, len(found), (max(5.2, 3.6 * len(found) + 1.0), 3.7))
    low, high = (float(end(list(found.values()))) for end in (np.min, np.max))
    colours, norm = colours_of([low, high], config.direction, theme)
    with style(theme):
        for panel, (pair, surface) in zip(axes, found.items(), strict=True):
            both = [record for record in complete if all(path in record.parameters for path in pair)]
            x, y = ([float(record.parameters[path]) for record in both] for path in pair)
            grid = [
                [value_at(numeric(config.space)[path], place) for place in np.linspace(0, 1, GRID)] for path in pair
            ]
            levels = norm.inverse(np.linspace(0, 1, LEVELS))
            panel.contourf(*grid, surface.T, levels=levels, cmap=colours, norm=norm, extend="both")
            values = [record.value for record in both]
            panel.scatter(x, y, c=values, cmap=colours, norm=norm, s=26, edgecolors="white", linewidths=0.9, zorder=3)
            leader = best(both, config.direction)
            at = [leader.parameters[path] for path in pair]
            panel.plot(*at, label="best", zorder=4, **ring(theme.series[1], 11))
            panel.set(xlabel=names[pair[0]], ylabel=names[pair[1]])
            scale_to_range(panel, numeric(config.space)[pair[0]], "x")
            scale_to_range(panel, numeric(config.space)[pair[1]], "y")
            panel.grid(visible=False)
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, label=config.metric, aspect=25, pad=0.01)
        bar.outline.set_visible(False)
        legend(figure, axes)
    return figure


def _most_important(config: SearchConfig, shares: Mapping[str, float]) -> list[str]:
    """The numeric dimensions that matter most, at most three; those without a share come last, as declared."""
    return sorted(numeric(config.space), key=lambda path: -shares.get(path, 0.0))[:3]


def _surface(
    config: SearchConfig, complete: Sequence[Record], pair: tuple[str, str]
) -> Float[NDArray[np.float64], "x y"] | None:
    """The metric over two dimensions, from end to end of each on its own scale; None where trials do not tell."""
    both = [record for record in complete if all(path in record.parameters for path in pair)]
    both = both[:: -(-len(both) // MAX_FITTED) or 1]
    values = [record.value for record in both if record.value is not None]
    x = np.array([[share(numeric(config.space)[path], record.parameters[path]) for path in pair] for record in both])
    if len(both) < MIN_TRIALS or len(set(values)) < 2 or any(len(set(column)) < 2 for column in x.T):
        return None
    log = is_log(values, config.direction)
    places = np.stack(np.meshgrid(*[np.linspace(0, 1, GRID)] * 2, indexing="ij"), axis=-1)  # (GRID, GRID, 2)
    found = posterior(x, list(np.log(values)) if log else values, places.reshape(-1, 2), config.direction)
    if found is None:
        return None
    surface = found.mean.reshape(GRID, GRID)
    return np.exp(surface) if log else surface
