"""Search by CMA-ES."""

from typing import Any, Self

from optuna.samplers import BaseSampler, CmaEsSampler
from pydantic import Field, field_validator, model_validator

from mlml.config import SearchConfig


class CMAES:
    """Covariance matrix adaptation evolution strategy (Hansen 2016, arXiv:1604.00772).

    A generation of trials is drawn from a normal distribution, whose mean, step size and covariance then move to the
    better half of it. Takes numbers alone, and tens of trials per dimension; those that are pruned or fail count in no
    generation. What it has learned stands in the record of the trial that begins a generation, so that each trial
    is a function of those before it.
    """

    class Config(SearchConfig):
        """The sampler's numbers.

        Attributes:
            startup_trials: trials drawn at random before the first generation, whose mean is the middle of the space.
            population: trials of a generation; null: 4 + floor(3 ln d) in d dimensions (Hansen's Eq. 48).
        """

        startup_trials: int = Field(default=1, ge=1)
        population: int | None = Field(default=None, ge=4)

        @field_validator("space")
        @classmethod
        def _numbers_alone(cls, space: dict[str, Any]) -> dict[str, Any]:
            for path, dimension in space.items():
                if dimension.type == "categorical":
                    raise ValueError(f"{path!r} is categorical, which CMA-ES cannot search; use tpe, gp or random")
            return space

        @model_validator(mode="after")
        def _one_objective(self) -> Self:
            if self.further_objectives:
                raise ValueError(self.one_objective("cmaes"))
            return self

    def __init__(self, config: Config) -> None:
        self.config = config

    def sampler(self, trial_seed: int, search_seed: int) -> BaseSampler:
        """Return the sampler of one trial."""
        config = self.config
        return CmaEsSampler(
            n_startup_trials=config.startup_trials,
            popsize=config.population,
            warn_independent_sampling=False,
            seed=trial_seed,
        )
