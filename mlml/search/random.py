"""Random search."""

from optuna.samplers import BaseSampler, RandomSampler

from mlml.config import SearchConfig


class Random:
    """Independent uniform draws (Bergstra & Bengio 2012, JMLR 13:281-305): the baseline of every search."""

    class Config(SearchConfig):
        """What to search; the sampler has no numbers of its own."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def sampler(self, trial_seed: int, search_seed: int) -> BaseSampler:
        """Return the sampler of one trial."""
        return RandomSampler(seed=trial_seed)
