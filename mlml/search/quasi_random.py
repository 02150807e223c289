"""Search by a low-discrepancy sequence."""

from typing import Any

from optuna.samplers import BaseSampler
from scipy.stats import qmc

from mlml.config import SearchConfig
from mlml.search._points import PointSampler


class QuasiRandom:
    """Scrambled Sobol points (Sobol 1967, doi:10.1016/0041-5553(67)90144-9; Owen 1998's scrambling).

    Uniform in the space as random draws are, but more evenly: for hyper-parameters a better spent budget (Bergstra &
    Bengio 2012, JMLR 13:281-305, section 4). Most even when the number of trials is a power of 2.

    The sequence is SciPy's, and trial n has its point n, whatever became of the trials before. Optuna's `QMCSampler`
    counts its draws in the study instead, and a sampler here serves a single trial.
    """

    class Config(SearchConfig):
        """What to search; the sampler has no numbers of its own."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def sampler(self, trial_seed: int, search_seed: int) -> BaseSampler:
        """Return the sampler of one trial; all trials of a search share one scrambling."""
        space = self.config.space

        def point(number: int) -> dict[str, Any]:
            engine = qmc.Sobol(len(space), scramble=True, seed=search_seed)
            if number:
                engine.fast_forward(number)
            shares = engine.random(1)[0]  # (d,), in [0, 1)
            return {path: space[path].at(float(share)) for path, share in zip(space, shares, strict=True)}

        return PointSampler(space, point)
