"""The space of a search, and values drawn from it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlml.config import Dimension, FloatDimension, IntDimension

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


def suggest(trial: "BaseTrial", space: Mapping[str, Dimension]) -> dict[str, Any]:
    """Return one value for each dotted path, in the order of the space, as the trial's sampler draws them."""
    return {path: _draw(trial, path, dimension) for path, dimension in space.items()}


def _draw(trial: "BaseTrial", path: str, dimension: Dimension) -> Any:
    if isinstance(dimension, FloatDimension):
        return trial.suggest_float(path, dimension.low, dimension.high, log=dimension.log)
    if isinstance(dimension, IntDimension):
        return trial.suggest_int(path, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
    return trial.suggest_categorical(path, list(dimension.choices))
