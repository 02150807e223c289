"""Grid search."""

from typing import Annotated, Any, Self

from optuna.samplers import BaseSampler
from pydantic import Field, ValidationInfo, field_validator, model_validator

from mlml.config import SearchConfig, combinations
from mlml.search._points import PointSampler
from mlml.seeds import derive


class Grid:
    """Every combination of some values of each dimension, the last dimension fastest.

    Its number of trials is the product of the numbers of values. Where few dimensions matter, random search tries more
    values of those in as many trials (Bergstra & Bengio 2012, JMLR 13:281-305).

    Shuffled, trial n is the n-th of an order that the seed decides, so that a budget too small for the whole grid is
    spent all over it: two values of each of six dimensions are 64 combinations.
    """

    class Config(SearchConfig):
        """The values of each dimension; `trials` is the number of combinations, or fewer of a shuffled grid.

        Attributes:
            points: by the path of a float or an int dimension, how many values of it, evenly spaced on its own scale
                from end to end. Of an int dimension that is not named, all values, as of a categorical one.
            shuffle: try the combinations in an order that the seed decides.
        """

        points: dict[str, Annotated[int, Field(ge=2)]] = Field(default_factory=dict)
        shuffle: bool = False

        @field_validator("points")
        @classmethod
        def _of_the_space(cls, points: dict[str, int], info: ValidationInfo) -> dict[str, int]:
            space = info.data.get("space", {})  # one that is faulty has its own sentence
            for path in points if space else ():
                if path not in space or space[path].type == "categorical":
                    known = ", ".join(name for name in space if space[name].type != "categorical")
                    raise ValueError(f"{path!r} is no float or int dimension of the space (known: {known or 'none'})")
                try:
                    space[path].evenly(points[path])
                except ValueError as error:
                    raise ValueError(f"{path!r} {error}") from None
            return points

        @model_validator(mode="after")
        def _one_trial_for_each(self) -> Self:
            if self.pruner == "asha":
                raise ValueError("pruner: 'asha' begins as many trials as it sees fit, grid each once; take another")
            for path, dimension in self.space.items():
                if dimension.type == "float" and path not in self.points:
                    raise ValueError(f"points: how many values of the float dimension {path!r}? name it there")
            size = len(self.combinations())
            if self.trials is None or "trials" not in self.model_fields_set:
                object.__setattr__(self, "trials", size)
            elif self.trials > size or (self.trials < size and not self.shuffle):
                way = "leave trials out" + (
                    "" if self.trials > size else ", or set shuffle to true to try some of them"
                )
                raise ValueError(f"has {size} combinations, but trials={self.trials}; {way}")
            return self

        def combinations(self) -> list[dict[str, Any]]:
            """Return the values of each trial, by path."""
            values: dict[str, Any] = {}
            for path, dimension in self.space.items():
                if dimension.type == "categorical":
                    values[path] = dimension.choices
                elif path in self.points:
                    values[path] = dimension.evenly(self.points[path])
                elif dimension.type == "int":
                    values[path] = range(dimension.low, dimension.high + 1, dimension.step)
            return combinations(self.space, values)

    def __init__(self, config: Config) -> None:
        self.config = config

    def sampler(self, trial_seed: int, search_seed: int) -> BaseSampler:
        """Return the sampler of one trial."""
        every = self.config.combinations()
        if self.config.shuffle:  # by hashes: a library's generator may have another order in its next version
            order = sorted(range(len(every)), key=lambda place: derive(search_seed, "grid", place))
            every = [every[place] for place in order]
        return PointSampler(self.config.space, lambda number: every[number])
