"""What a search tries."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from mlml.config.declared import Declared
from mlml.config.sentences import suggest


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


class SearchConfig(Declared):
    """Base of the configs of mlml/search: what to search, and what to search for.

    Attributes:
        experiment: the experiment whose entry the trials vary.
        space: by the dotted path of a value in that entry, the values to try.
        metric: of the validation split; a test split that chooses is a test split no more.
        trials: how many, those that are pruned or fail included.
        pruner: "median" ends a trial at an evaluation when its best value so far is worse than the median that the
            completed trials had there (Golovin et al. 2017, Google Vizier, section 3.2.2).
            "successive_halving" compares it at rungs, at pruner_min_steps and each time that the steps have grown
            `pruner_reduction`-fold, with the trials that were there before it: it goes on if it is among the best
            1/pruner_reduction of them (Jamieson & Talwalkar 2016, arXiv:1502.07943; one trial after another, as in
            Li et al. 2020, arXiv:1810.05934). "hyperband" deals the trials out to brackets, each of which halves from
            another first rung on, so that a metric which tells late is not lost on early rungs (Li et al. 2018,
            arXiv:1603.06560; their r, R and eta are the three numbers below).
        pruner_startup_trials: of "median": completed trials before any is pruned.
        pruner_warmup_steps: of "median": a trial is not pruned before this optimizer step.
        pruner_min_steps: of "successive_halving" and "hyperband": the optimizer step of the first rung.
        pruner_max_steps: of "hyperband": the optimizer steps of a whole training.
        pruner_reduction: of "successive_halving" and "hyperband": one trial of so many goes on to the next rung.
    """

    experiment: str
    space: dict[str, Dimension]
    metric: str = "validation/loss"
    direction: Literal["minimize", "maximize"] = "minimize"
    trials: PositiveInt = 20
    pruner: Literal["median", "none", "successive_halving", "hyperband"] = "median"
    pruner_startup_trials: NonNegativeInt = 5
    pruner_warmup_steps: NonNegativeInt = 0
    pruner_min_steps: PositiveInt | None = None
    pruner_max_steps: PositiveInt | None = None
    pruner_reduction: Annotated[int, Field(ge=2)] = 3

    @field_validator("metric")
    @classmethod
    def _of_validation(cls, metric: str) -> str:
        if not metric.startswith("validation/"):
            raise ValueError(f"must be a metric of the validation split, 'validation/...'; got {metric!r}")
        return metric

    @field_validator("space")
    @classmethod
    def _separate_paths(cls, space: dict[str, Any]) -> dict[str, Any]:
        if not space:
            raise ValueError("must name at least one value to search, by its dotted path")
        for path in space:
            if not all(path.split(".")):
                raise ValueError(f"a dotted path has no empty part; got {path!r}")
            inner = [other for other in space if other.startswith(f"{path}.")]
            if inner:
                raise ValueError(f"{path!r} holds {inner[0]!r}; search one of the two")
        before: dict[str, Any] = {}
        for path, dimension in space.items():
            for parent, value in dimension.when.items():
                _check_parent(path, parent, value, space, before)
            before[path] = dimension
            conditions(before, path)
        return space

    @model_validator(mode="after")
    def _numbers_of_the_pruner(self) -> "SearchConfig":
        needed = {"successive_halving": ["pruner_min_steps"], "hyperband": ["pruner_min_steps", "pruner_max_steps"]}
        for name in ("pruner_min_steps", "pruner_max_steps"):
            given = getattr(self, name) is not None
            if given != (name in needed.get(self.pruner, [])):
                raise ValueError(f"the pruner {self.pruner!r} {'has no' if given else 'needs'} {name}")
        if self.pruner_min_steps and self.pruner_max_steps and self.pruner_min_steps >= self.pruner_max_steps:
            got = f"{self.pruner_min_steps} and {self.pruner_max_steps}"
            raise ValueError(f"needs pruner_min_steps < pruner_max_steps; got {got}")
        return self


def _check_parent(
    path: str, parent: str, value: Any, space: Mapping[str, Dimension], before: Mapping[str, Dimension]
) -> None:
    """Refuse a condition that no draw can meet, or that a draw in the order of the space comes to too early."""
    if parent not in space:
        raise ValueError(f"{path!r} depends on {parent!r}, which is not searched{suggest(parent, space)}")
    dimension = space[parent]
    if not isinstance(dimension, CategoricalDimension):
        raise ValueError(f"{path!r} depends on {parent!r}, which is no categorical dimension but of {dimension.type!r}")
    if parent not in before:
        raise ValueError(f"{path!r} depends on {parent!r} and must stand after it")
    if not dimension.holds(value):
        raise ValueError(f"{path!r} is for {parent!r} = {value!r}, which is none of {list(dimension.choices)}")
