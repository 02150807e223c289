"""Where a value lies on the scale of its dimension, and how people read it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from mlml.config import CategoricalDimension, Dimension, FloatDimension, IntDimension
from mlml.config.search import Direction

LOG_RATIO = 30.0
"""Values of a metric that is to be minimised are shown on a log scale from this ratio of largest to smallest on."""

Numeric = FloatDimension | IntDimension


def is_numeric(dimension: Dimension) -> TypeGuard[Numeric]:
    """Whether the dimension's values have an order and a distance."""
    return isinstance(dimension, FloatDimension | IntDimension)


def numeric(space: Mapping[str, Dimension]) -> dict[str, Numeric]:
    """Return the dimensions that have an order and a distance, by path."""
    return {path: dimension for path, dimension in space.items() if is_numeric(dimension)}


def share(dimension: Numeric, value: float) -> float:
    """Return how much of the dimension lies below a value, in [0, 1], on the dimension's own scale."""
    if dimension.log:
        return math.log(value / dimension.low) / math.log(dimension.high / dimension.low)
    return (value - dimension.low) / (dimension.high - dimension.low)


def value_at(dimension: Numeric, share: float) -> float:
    """Return the number that `share` of the dimension lies below; of an int not one of its values everywhere."""
    if dimension.log:
        return dimension.low * math.pow(dimension.high / dimension.low, share)
    return dimension.low + share * (dimension.high - dimension.low)


def lattice(dimension: Numeric, most: int) -> list[float]:
    """Return shares of values that the dimension has: all values of an int, of a float or too long an int `most`."""
    if isinstance(dimension, IntDimension):
        values = range(dimension.low, dimension.high + 1, dimension.step)
        if len(values) <= most:
            return [share(dimension, value) for value in values]
    return [place / (most - 1) for place in range(most)]


def choice_place(dimension: CategoricalDimension, value: Any) -> int:
    """Return the place of a choice in the list; 1, 1.0 and true are three."""
    return next(k for k, choice in enumerate(dimension.choices) if type(choice) is type(value) and choice == value)


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return for each dotted path its last two parts, such as "optimizer.learning_rate", or more to tell it apart."""
    ends = {path: [_end(path, length) for length in range(2, path.count(".") + 2)] for path in paths}
    taken = [end for of_path in ends.values() for end in of_path]
    return {path: next((end for end in of_path if taken.count(end) == 1), path) for path, of_path in ends.items()}


def _end(path: str, length: int) -> str:
    return ".".join(path.split(".")[-length:])


def written(value: Any) -> str:
    """Return a value as params.yaml would have it, a float to three digits."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        mantissa, e, exponent = f"{float(f'{value:.3g}'):g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if e else mantissa
    return str(value)


def tick(value: float) -> str:
    """Return a number as the mark on an axis that has little room."""
    if 0 < abs(value) < 0.001:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return written(value)


def is_log(values: Sequence[float], direction: Direction) -> bool:
    """Whether values of a metric are to be shown on a log scale: a loss that ran away hides all others on a linear."""
    return direction == "minimize" and bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_RATIO
