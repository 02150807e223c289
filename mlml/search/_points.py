"""Samplers that do not look at what trials found: the values of trial n are a function of n."""

from collections.abc import Callable, Mapping
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from mlml.config import Dimension
from mlml.search._space import distributions


class PointSampler(BaseSampler):  # type: ignore[misc]
    """Gives trial n the values `point(n)`, by path; it must hold every dimension that applies to the others in it."""

    def __init__(self, space: Mapping[str, Dimension], point: Callable[[int], dict[str, Any]]) -> None:
        self._space, self._point = space, point

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return distributions(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._point(trial.number)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise KeyError(f"trial {trial.number}: its point has no {param_name!r}")
