"""What a Gaussian process makes of the trials, and where it would look next.

Notation: `n` complete trials of `d` numeric dimensions at x in [0, 1], the share of each dimension below their values
on its own scale; `q` places to look at. The process is of the metric to be maximised, as mlml/search/_acquisition.py
has it; what is returned has the metric's own sign.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from botorch.exceptions import ModelFittingError
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mlml.config import SearchConfig
from mlml.config.search import Direction
from mlml.figures import LIGHT, Theme, style
from mlml.search._acquisition import acquisition_function, fitted_process
from mlml.search._panels import legend, panels, ring, scale_to_range
from mlml.search._scale import Numeric, is_numeric, lattice, share, short_names, value_at
from mlml.search._study import Record

FIT_SEED = 0
"""Of the beginnings from which a fit is tried again when the first one fails."""

MIN_TRIALS = 3
"""Complete trials, before which a process shows its priors."""

PLACES = 401
"""At which the process is looked at, evenly over the dimension."""

DROP = 12.0
"""Logarithms of an acquisition are shown down to this much below their largest value."""

_NAMES = {
    "log_ei": "log expected\nimprovement",
    "ei": "expected\nimprovement",
    "ucb": "confidence\nbound",
    "pi": "probability of\nimprovement",
    "log_pi": "log probability\nof improvement",
}


class Posterior(NamedTuple):
    """A process at some places.

    Attributes:
        mean: of the metric.
        deviation: standard deviation of that mean, without the noise of a single trial.
        acquisition: the larger, the more a trial there is worth.
    """

    mean: Float[NDArray[np.float64], " q"]
    deviation: Float[NDArray[np.float64], " q"]
    acquisition: Float[NDArray[np.float64], " q"]


def posterior(
    x: Float[NDArray[np.float64], "n d"],
    values: Sequence[float],
    places: Float[NDArray[np.float64], "q d"],
    direction: Direction,
    acquisition: str = "log_ei",
    beta: float = 4.0,
) -> Posterior | None:
    """Fit a process to trials and return what it says at some places; None where no process can be fitted.

    Args:
        x: of the complete trials.
        values: of the metric there.
        places: to look at.
        direction: of the metric.
        acquisition: as `mlml.search._acquisition.acquisition_function`.
        beta: of "ucb".
    """
    sign = 1.0 if direction == "maximize" else -1.0
    y = sign * torch.tensor(values, dtype=torch.float64).unsqueeze(-1)  # (n, 1)
    at = torch.tensor(places, dtype=torch.float64)  # (q, d)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FIT_SEED)
        try:
            model = fitted_process(torch.tensor(x, dtype=torch.float64), y)
        except ModelFittingError:
            return None
        with torch.no_grad():
            found = model.posterior(at)
            mean, deviation = found.mean.squeeze(-1), found.variance.sqrt().squeeze(-1)  # (q,), (q,)
            worth = acquisition_function(acquisition, model, y.max(), beta)(at.unsqueeze(1))  # (q,)
    return Posterior(sign * mean.numpy(), deviation.numpy(), worth.numpy())


def moments(trials: int) -> list[int]:
    """Numbers of complete trials after which the process is shown: 3, 6, half of all, all; none close to another."""
    found = [MIN_TRIALS]
    for count in (6, trials // 2, trials):
        if found[-1] * 1.4 < count <= trials or count == trials > found[-1]:
            found.append(count)
    return found


def posterior_plot(config: SearchConfig, records: Sequence[Record], theme: Theme = LIGHT) -> Figure | None:
    """Plot how a Gaussian process learns the metric over the one dimension of a space, and where it would look next.

    The acquisition is the search's own where it has one, else the logarithm of the expected improvement. None for a
    space of several dimensions or of choices, and with fewer than three complete trials.
    """
    (path, dimension), *others = config.space.items()
    complete = [record for record in records if record.state == "complete" and record.value is not None]
    if others or not is_numeric(dimension) or len(complete) < MIN_TRIALS:
        return None
    counts = moments(len(complete))
    size = (max(6.0, 3.3 * len(counts) + 0.4), 4.6)
    figure, axes = panels(
        theme, 2, len(counts), size, sharex="col", sharey="row", gridspec_kw={"height_ratios": (2.2, 1)}
    )
    above, below = axes[: len(counts)], axes[len(counts) :]
    tops = [
        _moment(upper, lower, config, dimension, complete, count, theme)
        for count, upper, lower in zip(counts, above, below, strict=True)
    ]
    with style(theme):
        below[0].margins(y=0.16)
        if _acquisition(config)[0].startswith("log") and (drawn := [top for top in tops if top is not None]):
            below[0].set_ylim(min(drawn) - DROP, max(drawn) + 0.1 * DROP)
        above[0].set_ylabel(config.metric)
        below[0].set_ylabel(_NAMES[_acquisition(config)[0]])
        for lower in below:
            lower.set_xlabel(short_names([path])[path])
        legend(figure, axes)
    return figure


def _acquisition(config: SearchConfig) -> tuple[str, float]:
    """The acquisition function and its beta. Only the config of `gp` has them; its class is not imported for that."""
    return getattr(config, "acquisition", "log_ei"), getattr(config, "beta", 4.0)


def _moment(
    upper: Axes,
    lower: Axes,
    config: SearchConfig,
    dimension: Numeric,
    complete: Sequence[Record],
    count: int,
    theme: Theme,
) -> float | None:
    """Draw the search after its first `count` complete trials; returns the largest acquisition, None without one."""
    (path,) = config.space
    points = [(float(record.parameters[path]), float(record.value or 0.0)) for record in complete]
    known, later = points[:count], points[count : count + 1]
    blue, orange = theme.series[:2]
    shares = np.linspace(0, 1, PLACES)
    choices = np.array(lattice(dimension, PLACES))
    places = np.concatenate([shares, choices])[:, None]  # (q, 1)
    x = np.array([[share(dimension, value)] for value, _ in known])
    values = [value for _, value in known]
    found = posterior(x, values, places, config.direction, *_acquisition(config))
    at = [value_at(dimension, place) for place in shares]
    with style(theme):
        upper.set_title(f"after {count} trials", loc="left")
        if found is not None:
            mean, deviation, worth = (part[:PLACES] for part in found)
            band = mean - 2 * deviation, mean + 2 * deviation
            upper.fill_between(at, *band, color=blue, alpha=0.18, linewidth=0, label="± 2 sigma")
            upper.plot(at, mean, color=blue, linewidth=1.6, label="mean")
            lower.plot(at, worth, color=theme.series[2], linewidth=1.6)
            of_choices = found.acquisition[PLACES:]
            following = value_at(dimension, float(choices[of_choices.argmax()]))
            for panel in (upper, lower):
                label = "where the acquisition is largest"
                panel.axvline(following, color=theme.series[2], linewidth=1.2, linestyle=(0, (4, 2)), label=label)
            lower.plot([following], [of_choices.max()], "v", color=theme.series[2], markersize=7)
        upper.plot(*zip(*known, strict=True), "o", color=theme.ink, markersize=4.5, label="trials", zorder=4)
        if later:
            upper.plot(*later[0], label="the trial that followed", zorder=5, **ring(orange, 8))
        upper.set_ylim(*_limits([value for _, value in points]))
        for panel in (upper, lower):
            scale_to_range(panel, dimension, "x")
    return None if found is None else float(found.acquisition.max())


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the metric's axis: the trials and some room, for the band of few trials may be far wider."""
    room = 0.35 * (max(values) - min(values)) or 0.5
    return min(values) - room, max(values) + room
