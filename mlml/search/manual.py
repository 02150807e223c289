"""Trials declared one by one."""

from typing import Any, Self

from optuna.samplers import BaseSampler
from pydantic import Field, ValidationInfo, field_validator, model_validator

from mlml.config import SearchConfig
from mlml.search._points import PointSampler


class Manual:
    """The declared values, in their order: what a person would try, recorded and compared as any other search."""

    class Config(SearchConfig):
        """The trials; `trials` is their number.

        Attributes:
            values: of each trial, by the paths of the space: one value for each dimension that applies, within its
                range.
        """

        values: tuple[dict[str, Any], ...] = Field(min_length=1)

        @field_validator("values")
        @classmethod
        def _within_the_space(cls, values: tuple[dict[str, Any], ...], info: ValidationInfo) -> Any:
            space = info.data.get("space", {})  # one that is faulty has its own sentence
            for number, point in enumerate(values if space else ()):
                for path, value in point.items():
                    if path not in space:
                        known = ", ".join(space)
                        raise ValueError(f"trial {number}: {path!r} is no path of the space (known: {known})")
                    if not space[path].applies(point):
                        raise ValueError(f"trial {number}: {path!r} is for {space[path].when}; leave it out")
                    if not space[path].holds(value):
                        has = list(space[path].ends())
                        what = "none of" if space[path].type == "categorical" else "no value of the range"
                        raise ValueError(f"trial {number}: {path!r} is {value!r}, {what} {has}")
                lacking = [path for path, other in space.items() if path not in point and other.applies(point)]
                if lacking:
                    raise ValueError(f"trial {number}: needs a value of {lacking[0]!r}")
            return values

        @model_validator(mode="after")
        def _one_trial_for_each(self) -> Self:
            if self.pruner == "asha":
                raise ValueError("pruner: 'asha' begins as many trials as it sees fit, manual each once; take another")
            if "trials" in self.model_fields_set and self.trials != len(self.values):
                raise ValueError(f"has {len(self.values)} lists of values, but trials={self.trials}; leave trials out")
            object.__setattr__(self, "trials", len(self.values))
            return self

    def __init__(self, config: Config) -> None:
        self.config = config

    def sampler(self, trial_seed: int, search_seed: int) -> BaseSampler:
        """Return the sampler of one trial."""
        return PointSampler(self.config.space, lambda number: self.config.values[number])
