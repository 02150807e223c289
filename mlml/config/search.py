"""What a search tries."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from mlml.config.declared import Declared


def _check_range(low: float, high: float, log: bool) -> None:
    if low >= high:
        raise ValueError(f"needs low < high; got low={low}, high={high}")
    if log and low <= 0:
        raise ValueError(f"a log scale needs low > 0; got low={low}")


class FloatDimension(Declared):
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


class IntDimension(Declared):
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


class CategoricalDimension(Declared):
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


Dimension = Annotated[FloatDimension | IntDimension | CategoricalDimension, Field(discriminator="type")]


class SearchConfig(Declared):
    """Base of the configs of mlml/search: what to search, and what to search for.

    Attributes:
        experiment: the experiment whose entry the trials vary.
        space: by the dotted path of a value in that entry, the values to try.
        metric: of the validation split; a test split that chooses is a test split no more.
        trials: how many, those that are pruned or fail included.
        pruner: "median" ends a trial at an evaluation when its best value so far is worse than the median that the
            completed trials had there (Golovin et al. 2017, Google Vizier, section 3.2.2).
        pruner_startup_trials: completed trials before any is pruned.
        pruner_warmup_steps: a trial is not pruned before this optimizer step.
    """

    experiment: str
    space: dict[str, Dimension]
    metric: str = "validation/loss"
    direction: Literal["minimize", "maximize"] = "minimize"
    trials: PositiveInt = 20
    pruner: Literal["median", "none"] = "median"
    pruner_startup_trials: NonNegativeInt = 5
    pruner_warmup_steps: NonNegativeInt = 0

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
        return space
