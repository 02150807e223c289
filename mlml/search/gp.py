"""Search by a Gaussian process."""

from optuna.samplers import BaseSampler, GPSampler
from pydantic import PositiveInt

from mlml.config import SearchConfig


class GP:
    """Gaussian process with a Matérn 5/2 kernel and log expected improvement (Ament et al. 2023, arXiv:2310.20708).

    Its lengthscales, one for each value of the space, are fitted anew for every trial. It costs some tenths of a
    second a trial, and is at its best in small spaces with few trials.
    """

    class Config(SearchConfig):
        """The sampler's numbers.

        Attributes:
            startup_trials: trials drawn at random before the process is fitted.
        """

        startup_trials: PositiveInt = 10

    def __init__(self, config: Config) -> None:
        self.config = config

    def sampler(self, seed: int) -> BaseSampler:
        """Return the sampler of one trial."""
        return GPSampler(n_startup_trials=self.config.startup_trials, seed=seed)
