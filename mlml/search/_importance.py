"""How much each value of the space matters."""

import math
from collections.abc import Sequence
from typing import Any

import optuna

from mlml.config import CategoricalDimension, Dimension, IntDimension, SearchConfig
from mlml.search._study import Record, without_optuna_info

IMPORTANCE_SEED = 0
"""Of the random forest behind the importances."""


def importances(config: SearchConfig, records: Sequence[Record]) -> dict[str, float]:
    """Return the share of each value of the space in the variance of the metric over the complete trials.

    Functional ANOVA over a random forest (Hutter, Hoos & Leyton-Brown 2014, ICML): main effects only, scaled to the
    sum 1, the largest first. A dimension on a log scale counts evenly on that scale; one that some trials do not draw
    has no share. Further objectives play no part.

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


def known(config: SearchConfig, records: Sequence[Record]) -> dict[str, float]:
    """Return the importances, or nothing where there are none."""
    try:
        return importances(config, records)
    except ValueError:
        return {}


def _plain(dimension: Dimension, value: Any) -> Any:
    """Put a value of a log scale onto a linear one, the only one that Optuna's fANOVA knows."""
    return math.log(value) if not isinstance(dimension, CategoricalDimension) and dimension.log else value


def _plain_distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    if isinstance(dimension, CategoricalDimension):
        return optuna.distributions.CategoricalDistribution(dimension.choices)
    if isinstance(dimension, IntDimension) and not dimension.log:
        return optuna.distributions.IntDistribution(dimension.low, dimension.high, step=dimension.step)
    return optuna.distributions.FloatDistribution(_plain(dimension, dimension.low), _plain(dimension, dimension.high))
