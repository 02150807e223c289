"""The space of a search, and values drawn from it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlml.config import Dimension, FloatDimension, IntDimension

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial


def suggest(trial: "BaseTrial", space: Mapping[str, Dimension]) -> dict[str, Any]:
    """Return one value for each dotted path, in the order of the space, as the trial's sampler draws them.

    A dimension that does not apply to the values drawn before it is left out.
    """
    drawn: dict[str, Any] = {}
    for path, dimension in space.items():
        if dimension.applies(drawn):
            drawn[path] = _draw(trial, path, dimension)
    return drawn


def _draw(trial: "BaseTrial", path: str, dimension: Dimension) -> Any:
    if isinstance(dimension, FloatDimension):
        return trial.suggest_float(path, dimension.low, dimension.high, log=dimension.log)
    if isinstance(dimension, IntDimension):
        return trial.suggest_int(path, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
    return trial.suggest_categorical(path, list(dimension.choices))


def distributions(space: Mapping[str, Dimension]) -> dict[str, "BaseDistribution"]:
    """Return what `suggest` draws from, by path, as Optuna has it."""
    from optuna.trial import FixedTrial

    trial = FixedTrial({path: dimension.ends()[0] for path, dimension in space.items()})
    for path, dimension in space.items():
        _draw(trial, path, dimension)
    return dict(trial.distributions)
