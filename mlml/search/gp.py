"""Search by a Gaussian process."""

from typing import Literal, Self

from optuna.samplers import BaseSampler, GPSampler
from pydantic import Field, PositiveInt, model_validator

from mlml.config import SearchConfig


class GP:
    """Bayesian optimisation: a Gaussian process fitted to the complete trials says where the next is worth most.

    Its lengthscales, one for each value of the space, are fitted anew for every trial. It costs some tenths of a
    second a trial, and is at its best in small spaces with few trials.

    With the default acquisition function it is Optuna's sampler: Matérn 5/2 kernel, and whole numbers and choices
    searched as such. The others are BoTorch's, on its process of one task with a squared exponential kernel (Balandat
    et al. 2020, arXiv:1910.06403): whole numbers are rounded, choices are one-hot, and a trial costs about five times
    as much.
    """

    class Config(SearchConfig):
        """The sampler's numbers.

        Attributes:
            startup_trials: trials drawn at random before the process is fitted.
            acquisition: what the next trial has most of. "log_ei": logarithm of the expected improvement (Ament et al.
                2023, arXiv:2310.20708), which does not vanish to zero far from the incumbent as "ei" does (Jones et
                al. 1998, doi:10.1023/A:1008306431147). "ucb": upper confidence bound, when minimising the lower one
                (Srinivas et al. 2010, arXiv:0912.3995). "pi": probability of improvement (Kushner 1964,
                doi:10.1115/1.3653121), and "log_pi" its logarithm.
            beta: of "ucb": the bound lies sqrt(beta) standard deviations off the mean.
        """

        startup_trials: PositiveInt = 10
        acquisition: Literal["log_ei", "ei", "ucb", "log_pi", "pi"] = "log_ei"
        beta: float = Field(default=4.0, gt=0)

        @model_validator(mode="after")
        def _one_objective(self) -> Self:
            if self.further_objectives and self.acquisition != "log_ei":
                raise ValueError(self.one_objective(f"acquisition {self.acquisition!r}"))
            return self

    def __init__(self, config: Config) -> None:
        self.config = config

    def sampler(self, trial_seed: int, search_seed: int) -> BaseSampler:
        """Return the sampler of one trial."""
        config = self.config
        if config.acquisition == "log_ei":
            return GPSampler(n_startup_trials=config.startup_trials, seed=trial_seed, warn_independent_sampling=False)
        from mlml.search._acquisition import botorch_sampler  # not above: it imports torch and BoTorch

        return botorch_sampler(config.acquisition, config.beta, config.startup_trials, trial_seed)
