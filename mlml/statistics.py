"""Statistics over seeds. Plain floats in, plain floats out: the same bytes in a file for the same values."""

import math
from collections.abc import Mapping
from statistics import mean, stdev

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


def _half_width(values: list[float]) -> float | None:
    """Half-width of the 95 % interval, to 12 digits: the last bits of a quantile differ between machines."""
    if len(values) == 1:
        return None
    from scipy.special import stdtrit  # the quantile behind scipy.stats.t, whose import takes twice as long

    n = len(values)
    quantile = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return float(f"{quantile * stdev(values) / math.sqrt(n):.12g}")  # stdev is exact: 0 for equal values
