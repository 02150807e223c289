"""What a search draws from: its dimensions."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from mlml.config.declared import Declared


def _check_range(low: float, high: float, log: bool) -> None:
    if low >= high:
        raise ValueError(f"needs low < high; got low={low}, high={high}")
    if log and low <= 0:
        raise ValueError(f"a log scale needs low > 0; got low={low}")


def _same(one: Any, other: Any) -> bool:
    """Whether two plain values are the same for a declaration: 1, 1.0 and true are three."""
    return type(one) is type(other) and bool(one == other)


class _Dimension(Declared):
    """Base of the dimensions.

    Attributes:
        when: by the path of a categorical dimension that stands before, the choice with which this one is drawn;
            with others the entry keeps what it declares. Empty: drawn always.
    """

    when: dict[str, Any] = Field(default_factory=dict)

    def applies(self, drawn: Mapping[str, Any]) -> bool:
        """Whether the dimension is drawn where those before it have the values `drawn`, by path."""
        return all(parent in drawn and _same(drawn[parent], value) for parent, value in self.when.items())


class FloatDimension(_Dimension):
    """A real number between `low` and `high`, both included; `log`: drawn evenly on a log scale."""

    type: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _range(self) -> "FloatDimension":
        _check_range(self.low, self.high, self.log)
        return self

    def ends(self) -> tuple[float, float]:
        """Return the values that the dimension must fit at."""
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        """Whether the dimension has this value."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def at(self, share: float) -> float:
        """Return the value with `share`, in [0, 1], of the dimension below it, on its own scale."""
        if self.log:
            return min(self.high, self.low * math.pow(self.high / self.low, share))
        return min(self.high, self.low + share * (self.high - self.low))

    def evenly(self, count: int) -> list[float]:
        """Return `count` >= 2 values, evenly spaced on the dimension's own scale, from end to end."""
        return [*(self.at(k / (count - 1)) for k in range(count - 1)), self.high]


class IntDimension(_Dimension):
    """A whole number out of low, low + step, ..., high; `log`: drawn evenly on a log scale, in steps of 1."""

    type: Literal["int"] = "int"
    low: int
    high: int
    step: PositiveInt = 1
    log: bool = False

    @model_validator(mode="after")
    def _range(self) -> "IntDimension":
        _check_range(self.low, self.high, self.log)
        if self.log and self.step != 1:
            raise ValueError(f"a log scale has no step; got step={self.step}")
        if (self.high - self.low) % self.step:
            raise ValueError(f"needs high = low + a multiple of step; got {self.low}, {self.high}, step={self.step}")
        return self

    def ends(self) -> tuple[int, int]:
        """Return the values that the dimension must fit at."""
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        """Whether the dimension has this value."""
        return type(value) is int and value in range(self.low, self.high + 1, self.step)

    def at(self, share: float) -> int:
        """Return the value with `share`, in [0, 1), of the dimension below it: all are equally likely, or on `log`."""
        if self.log:  # each value k has the part of the log scale from k - 1/2 to k + 1/2
            low, high = self.low - 0.5, self.high + 0.5
            return min(self.high, max(self.low, math.floor(low * math.pow(high / low, share) + 0.5)))
        return self.low + self.step * math.floor(share * self._num_values())

    def evenly(self, count: int) -> list[int]:
        """Return `count` >= 2 values, evenly spaced on the dimension's own scale, from end to end.

        Raises:
            ValueError: there are not so many different ones.
        """
        if self.log:
            found = [round(self.low * math.pow(self.high / self.low, k / (count - 1))) for k in range(count)]
        else:
            last = self._num_values() - 1
            found = [self.low + self.step * ((2 * k * last + count - 1) // (2 * count - 2)) for k in range(count)]
        if len(set(found)) < count:
            raise ValueError(f"has no {count} different values that are evenly spaced")
        return found

    def _num_values(self) -> int:
        return (self.high - self.low) // self.step + 1


class CategoricalDimension(_Dimension):
    """One of some values without an order: texts, numbers, true, false, null."""

    type: Literal["categorical"] = "categorical"
    choices: tuple[Any, ...]

    @field_validator("choices")
    @classmethod
    def _plain_and_distinct(cls, choices: tuple[Any, ...]) -> tuple[Any, ...]:
        plain = all(choice is None or isinstance(choice, str | int | float) for choice in choices)
        if not plain or len(choices) < 2 or len(set(choices)) < len(choices):
            raise ValueError(f"must be two or more different texts, numbers, booleans or null; got {list(choices)}")
        return choices

    def ends(self) -> tuple[Any, ...]:
        """Return the values that the dimension must fit at: all of them."""
        return self.choices

    def holds(self, value: Any) -> bool:
        """Whether the dimension has this value."""
        return any(_same(value, choice) for choice in self.choices)

    def at(self, share: float) -> Any:
        """Return the choice at `share`, in [0, 1), of the list."""
        return self.choices[math.floor(share * len(self.choices))]


Dimension = Annotated[FloatDimension | IntDimension | CategoricalDimension, Field(discriminator="type")]


def conditions(space: Mapping[str, Dimension], path: str) -> dict[str, Any]:
    """Return the choices, by path, with which a dimension is drawn: its own conditions and those of its parents.

    Raises:
        ValueError: it needs two choices of one dimension.
    """
    found: dict[str, Any] = {}
    for parent, value in space[path].when.items():
        for name, choice in {**conditions(space, parent), parent: value}.items():
            if name in found and not _same(found[name], choice):
                raise ValueError(f"{path!r} is never drawn: it needs {name!r} to be {found[name]!r} and {choice!r}")
            found[name] = choice
    return found


def combinations(space: Mapping[str, Dimension], values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of values by path, the last dimension fastest; each has the dimensions that apply."""
    found: list[dict[str, Any]] = [{}]
    for path, dimension in space.items():
        longer = [
            [{**point, path: value} for value in values[path]] if dimension.applies(point) else [point]
            for point in found
        ]
        found = [point for points in longer for point in points]
    return found
