"""What a search leaves for people: `best.yaml`, `trials.csv`, `history.png`, `importance.png`.

All four are functions of the records: no times, no names of machines, so that the same search gives the same bytes.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from ruamel.yaml import YAML

from mlml.config import CategoricalDimension, Dimension, IntDimension, SearchConfig, overridden
from mlml.figures import LIGHT, Theme, write_png
from mlml.search._study import Record, best, without_optuna_info

IMPORTANCE_SEED = 0
"""Of the random forest behind the importances."""


def write_outputs(config: SearchConfig, records: Sequence[Record], folder: Path) -> None:
    """Write the four files of a search; `folder` is made when absent.

    best.yaml holds `overrides`, nested as in the experiment's entry, and where they come from. trials.csv has a row
    for each trial, pruned and failed ones included.

    Raises:
        ValueError: no trial is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = best(records, config.direction)
    content = {
        "experiment": config.experiment,
        "objective": config.objective,
        "metric": config.metric,
        "direction": config.direction,
        "value": found.value,
        "trial": found.number,
        "overrides": overridden({}, found.parameters),
    }
    YAML().dump(content, folder / "best.yaml")
    _write_trials(config, records, folder / "trials.csv")
    write_png(history_plot(config, records), folder / "history.png")
    write_png(importance_plot(config, records), folder / "importance.png")


def _write_trials(config: SearchConfig, records: Sequence[Record], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["number", "state", "value", *config.space, "evaluations", "failure"])
        for record in records:
            values = [record.parameters.get(name) for name in config.space]
            row = [record.number, record.state, record.value, *values, len(record.evaluations), record.failure]
            writer.writerow(["" if cell is None else cell for cell in row])


def importances(config: SearchConfig, records: Sequence[Record]) -> dict[str, float]:
    """Return the share of each value of the space in the variance of the metric over the complete trials.

    Functional ANOVA over a random forest (Hutter, Hoos & Leyton-Brown 2014, ICML): main effects only, scaled to the
    sum 1, the largest first. A dimension on a log scale counts evenly on that scale; one that some
    trials do not draw has no share.

    Raises:
        ValueError: fewer than two complete trials, or hardly two values among them.
    """
    complete = [record for record in records if record.state == "complete"]
    if len(complete) < 2:
        raise ValueError(f"needs two complete trials; got {len(complete)}")
    with without_optuna_info():
        study = optuna.create_study(direction=config.direction)
        for record in complete:
            study.add_trial(
                optuna.trial.create_trial(
                    value=record.value,
                    params={path: _plain(config.space[path], value) for path, value in record.parameters.items()},
                    distributions={path: _plain_distribution(config.space[path]) for path in record.parameters},
                )
            )
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=IMPORTANCE_SEED)
        try:
            found: dict[str, float] = optuna.importance.get_param_importances(study, evaluator=evaluator)
        except RuntimeError:  # no tree of the forest saw two values
            raise ValueError(f"needs trials of different values; got {len(complete)} complete ones") from None
    return found


def _plain(dimension: Dimension, value: Any) -> Any:
    """Put a value of a log scale onto a linear one, the only one that Optuna's fANOVA knows."""
    return math.log(value) if not isinstance(dimension, CategoricalDimension) and dimension.log else value


def _plain_distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    if isinstance(dimension, CategoricalDimension):
        return optuna.distributions.CategoricalDistribution(dimension.choices)
    if isinstance(dimension, IntDimension) and not dimension.log:
        return optuna.distributions.IntDistribution(dimension.low, dimension.high, step=dimension.step)
    return optuna.distributions.FloatDistribution(_plain(dimension, dimension.low), _plain(dimension, dimension.high))


def history_plot(config: SearchConfig, records: Sequence[Record], theme: Theme = LIGHT) -> Figure:
    """Plot the value of each trial by its number, and the best value so far."""
    figure, axes = _axes(theme, (7.0, 3.4))
    blue, orange = theme.series[:2]
    complete = [record for record in records if record.state == "complete"]
    pruned = [record for record in records if record.state == "pruned"]
    failed = [record.number for record in records if record.state == "failed"]
    leaders = [best(complete[: count + 1], config.direction) for count in range(len(complete))]
    numbers = [record.number for record in complete]
    last = max((record.number for record in records), default=0)
    so_far = _values([*leaders, *leaders[-1:]])
    axes.step([*numbers, last], so_far, where="post", color=orange, linewidth=1.8, label="best so far")
    axes.plot(numbers, _values(complete), "o", color=blue, markersize=5, label="complete")
    if pruned:
        at, values = [record.number for record in pruned], _values(pruned)
        label = "pruned (last evaluation)"
        axes.plot(at, values, "v", color=theme.muted, markersize=5, markerfacecolor="none", label=label)
    if failed:
        bottom = axes.get_xaxis_transform()
        axes.plot(failed, [0.03] * len(failed), "x", color=theme.ink, markersize=5, transform=bottom, label="failed")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(config.metric)
    figure.legend(loc="outside upper left", ncols=4, frameon=False, labelcolor=theme.ink)
    return figure


def _values(records: Sequence[Record]) -> list[float]:
    """Values of trials; a gap where there is none."""
    return [math.nan if record.value is None else record.value for record in records]


def importance_plot(config: SearchConfig, records: Sequence[Record], theme: Theme = LIGHT) -> Figure:
    """Plot the importances as bars, the largest on top; where there are none, the figure says why."""
    figure, axes = _axes(theme, (7.0, 0.9 + 0.36 * max(2, len(config.space))))
    try:
        shares = importances(config, records)
    except ValueError as error:
        axes.set_axis_off()
        text = f"no importances: {error}"
        axes.text(0.5, 0.5, text, ha="center", va="center", color=theme.muted, transform=axes.transAxes)
        return figure
    positions = range(len(shares))
    bars = axes.barh(positions, list(shares.values()), color=theme.series[0], height=0.6)
    axes.bar_label(bars, [f"{100 * share:.0f} %" for share in shares.values()], padding=4, color=theme.muted)
    axes.set_yticks(positions, list(shares), color=theme.ink)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.set_xlabel(f"share of the variance of {config.metric} (fANOVA)")
    return figure


def _axes(theme: Theme, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return an empty plot in the theme's colours, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.set_facecolor("none")
        axes.set_axisbelow(True)
        axes.grid(color=theme.grid, linewidth=0.8)
        axes.tick_params(color=theme.grid, labelcolor=theme.muted)
        axes.xaxis.label.set_color(theme.muted)
        axes.yaxis.label.set_color(theme.muted)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.grid)
    return figure, axes
