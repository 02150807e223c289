"""Statistics over seeds. Plain floats in, plain floats out: the same bytes in a file for the same values."""

import math
from collections.abc import Mapping
from statistics import mean, stdev, variance
from typing import NamedTuple

CONFIDENCE = 0.95


def summarise(values: Mapping[int, float]) -> dict[str, float | None]:
    """Return mean, 95 % interval and the values of one metric measured with several seeds.

    The interval is Student's t for the mean of n independent normal values: mean ± t(0.975, n - 1) s / sqrt(n), with
    s the sample standard deviation (n - 1 in the denominator).

    Args:
        values: the metric by seed, in the metric's unit.

    Returns:
        {"mean": m, "interval95": half-width or None for a single seed, "seed_<s>": value, ...}, seeds ascending.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    if not values:
        raise ValueError("a metric has no values; give the experiment at least one seed")
    for seed, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"seed {seed}: a metric must be finite to be averaged; got {value}")
    by_seed = {f"seed_{seed}": float(values[seed]) for seed in sorted(values)}
    return {"mean": mean(by_seed.values()), "interval95": _half_width(list(by_seed.values())), **by_seed}


def by_seed(summary: Mapping[str, float | None]) -> dict[int, float]:
    """Return the values that `summarise` was given."""
    return {
        int(key.removeprefix("seed_")): value
        for key, value in summary.items()
        if key.startswith("seed_") and value is not None
    }


def _half_width(values: list[float]) -> float | None:
    """Half-width of the 95 % interval, to 12 digits: the last bits of a quantile differ between machines."""
    if len(values) == 1:
        return None
    from scipy.special import stdtrit  # the quantile behind scipy.stats.t, whose import takes twice as long

    n = len(values)
    quantile = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return float(f"{quantile * stdev(values) / math.sqrt(n):.12g}")  # stdev is exact: 0 for equal values


class Difference(NamedTuple):
    """How far two means are apart.

    Attributes:
        mean: of the first less that of the second, in the metric's unit.
        interval95: half-width of its 95 % interval; None where one of the two has a single value.
        paired: whether the values were compared seed by seed.
    """

    mean: float
    interval95: float | None
    paired: bool


def difference(first: Mapping[int, float], second: Mapping[int, float], pair: bool = True) -> Difference:
    """Return the difference of the means of one metric of two experiments, with its 95 % interval.

    Of the same seeds, the interval is Student's t for the mean of the differences by seed: what a seed does to both
    cancels. Otherwise it is Welch's (1947, Biometrika 34), with s² / n of each and the degrees of freedom
    (s1²/n1 + s2²/n2)² / ((s1²/n1)² / (n1 - 1) + (s2²/n2)² / (n2 - 1)).

    Args:
        first: the metric by seed, in the metric's unit.
        second: the same of the other experiment.
        pair: compare seed by seed where the seeds are the same.
    """
    mean_difference = mean(first.values()) - mean(second.values())
    if pair and first.keys() == second.keys():
        return Difference(mean_difference, _half_width([first[seed] - second[seed] for seed in sorted(first)]), True)
    if min(len(first), len(second)) == 1:
        return Difference(mean_difference, None, False)
    from scipy.special import stdtrit

    shares = [variance(values.values()) / len(values) for values in (first, second)]
    total = sum(shares)
    if total == 0:
        return Difference(mean_difference, 0.0, False)
    parts = [share**2 / (len(values) - 1) for share, values in zip(shares, (first, second), strict=True)]
    quantile = float(stdtrit(total**2 / sum(parts), (1 + CONFIDENCE) / 2))
    return Difference(mean_difference, float(f"{quantile * math.sqrt(total):.12g}"), False)
