"""Search by the tree-structured Parzen estimator."""

from optuna.samplers import BaseSampler, TPESampler
from pydantic import NonNegativeInt, PositiveInt

from mlml.config import SearchConfig


class TPE:
    """Tree-structured Parzen estimator (Bergstra et al. 2011; Watanabe 2023, arXiv:2304.11127).

    Splits past trials into good and bad, fits a density l(x), g(x) to each, and takes the candidate with the largest
    l(x) / g(x), which orders candidates as the expected improvement does.
    """

    class Config(SearchConfig):
        """The sampler's numbers.

        Attributes:
            startup_trials: trials drawn at random before the densities are fitted.
            candidates: draws from l(x) that are compared.
            multivariate: one joint density over the whole space (Falkner et al. 2018, BOHB, arXiv:1807.01774),
                not one for each value.
        """

        startup_trials: NonNegativeInt = 10
        candidates: PositiveInt = 24
        multivariate: bool = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def sampler(self, trial_seed: int, search_seed: int) -> BaseSampler:
        """Return the sampler of one trial."""
        config = self.config
        return TPESampler(
            n_startup_trials=config.startup_trials,
            n_ei_candidates=config.candidates,
            multivariate=config.multivariate,
            constant_liar=config.workers > 1,  # keeps away from what others are trying
            seed=trial_seed,
        )
