"""Recorded numbers of layers: which layer has it worst, what is usual, and how gradients compare.

Notation: a *series* is [(step, value), ...] by rising step; `Layers` holds one for each layer and measure. A threshold
is what the verdicts of `mlml.diagnostics` hold a number against.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

Series = list[tuple[int, float]]
Layers = dict[str, dict[str, Series]]


def measured(layers: Layers, measure: str) -> list[tuple[str, Series]]:
    """Layers of which a measure was taken, with its series."""
    return [(name, measures[measure]) for name, measures in layers.items() if measures.get(measure)]


def finite(series: Sequence[tuple[int, float]]) -> list[float]:
    """Values that are finite, without their steps."""
    return [value for _, value in series if math.isfinite(value)]


def late(series: Series) -> float:
    """Median of the second half."""
    return median(finite(series[len(series) // 2 :]) or [0.0])


def worst(values: Mapping[str, float]) -> tuple[str | None, float]:
    """The first name with the greatest value."""
    name = max(values, key=lambda name: values[name], default=None)
    return name, values[name] if name is not None else 0.0


def beyond(shares: Mapping[str, float], threshold: float) -> tuple[str, float, str] | None:
    """The worst layer with its share, and in words how many more are beyond the threshold; None where it is not."""
    name, share = worst(shares)
    return None if name is None or not share > threshold else (name, share, others_beyond(shares, threshold))


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.0f} %"


def others_beyond(values: Mapping[str, float], threshold: float) -> str:
    """How many more layers than the worst are beyond the threshold, in words; nothing where there are none."""
    count = sum(value > threshold for value in values.values()) - 1
    return f" (and {count} more layer{'s' if count > 1 else ''})" if count > 0 else ""


def ratios_to_later(layers: Layers) -> Iterator[tuple[str, tuple[float, str]]]:
    """Each layer's gradient norm over the greatest of the later layers of its network, with that layer's name.

    A network is what the first part of a layer's name says, such as `encoder`; gradients of two players, or of two
    losses, do not compare.
    """
    groups: dict[str, list[str]] = {}
    for name, _ in measured(layers, "gradient_norm"):
        groups.setdefault(name.split(".")[0] if "." in name else "", []).append(name)
    for names in groups.values():
        norms = {name: dict(layers[name]["gradient_norm"]) for name in names}
        for place, name in enumerate(names[:-1]):
            found: list[tuple[float, str]] = []
            for step, value in norms[name].items():
                later = [(norms[other][step], other) for other in names[place + 1 :] if step in norms[other]]
                later = [(other_value, other) for other_value, other in later if math.isfinite(other_value)]
                if math.isfinite(value) and later and max(later)[0] > 0:
                    found.append((value / max(later)[0], max(later)[1]))
            if found:
                yield name, sorted(found)[len(found) // 2]
