"""How far compared searches are from the best there is: pure functions of their trials.

Notation, for `s` seeds and `t` trials:
    incumbent   best value of the trials so far
    reference   the known minimum; of an experiment, where none is known, the best value that any of the searches found
    regret      of an incumbent: its distance to the reference, >= 0, the metric's unit (simple regret)
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from mlml.config import Direction
from mlml.statistics import Difference, difference, summarise

if TYPE_CHECKING:
    from mlml.search._study import Record

Searched = Mapping[str, Mapping[int, Sequence["Record"]]]
"""Trials by the search's label and the seed."""

Regrets = Mapping[str, Mapping[int, Float[NDArray[np.floating], " t"]]]
"""Regret after each trial by the search's label and the seed; NaN before the first complete trial."""

BASELINE = "random"
"""Sampler that every other is compared with."""


def incumbents(records: Sequence["Record"], direction: Direction) -> Float[NDArray[np.floating], " t"]:
    """Return the best value after each trial; NaN before the first complete one."""
    sign = 1 if direction == "minimize" else -1
    values = [sign * value if (value := _value(record)) is not None else math.nan for record in records]
    return sign * np.fmin.accumulate(np.array(values, dtype=float))


def _value(record: "Record") -> float | None:
    return record.value if record.state == "complete" else None


def regrets(searched: Searched, direction: Direction, reference: float | None = None) -> Regrets:
    """Return the regret of each search after each trial.

    Args:
        searched: the trials.
        direction: of their values.
        reference: the best value there is; None: for each seed, the best that any of its searches found.
    """
    sign = 1 if direction == "minimize" else -1
    so_far = {label: {s: incumbents(r, direction) for s, r in of.items()} for label, of in searched.items()}
    best = {
        seed: min(sign * of[seed][-1] for of in so_far.values()) if reference is None else sign * reference
        for seed in next(iter(so_far.values()))
    }
    return {
        # rounding may take a value at the minimum below it
        label: {seed: np.maximum(sign * values - best[seed], 0.0) for seed, values in of.items()}
        for label, of in so_far.items()
    }


def table(searched: Searched, found: Regrets) -> pd.DataFrame:
    """Return a row for each trial: label, seed, trial from 1, its values, what it found, the regret after it."""
    rows = [
        {
            "search": label,
            "seed": seed,
            "trial": record.number + 1,
            **record.parameters,
            "value": _value(record),
            "regret": regret,
        }
        for label, by_seed in searched.items()
        for seed, records in by_seed.items()
        for record, regret in zip(records, found[label][seed], strict=True)
    ]
    return pd.DataFrame(rows)


def final(found: Regrets) -> dict[str, dict[int, float]]:
    """Return the regret after the last trial, by label and seed."""
    return {label: {seed: float(values[-1]) for seed, values in of.items()} for label, of in found.items()}


def metrics(found: Regrets) -> dict[int, dict[str, float]]:
    """Return the regrets after the last trial, by seed, as findings have them."""
    ends = final(found)
    return {seed: {f"{label}/regret": of[seed] for label, of in ends.items()} for seed in next(iter(ends.values()))}


class Against(NamedTuple):
    """Searches against one of them, by what their difference of mean regrets is to its 95 % interval.

    Attributes:
        lower, alike, higher: labels, by increasing mean regret.
    """

    lower: tuple[str, ...]
    alike: tuple[str, ...]
    higher: tuple[str, ...]


def against(ends: Mapping[str, Mapping[int, float]], other: str) -> Against:
    """Tell which mean regrets are below that of `other`, above it, or not to be told from it; seed by seed."""
    groups: dict[int, list[str]] = {-1: [], 0: [], 1: []}
    for label in sorted(ends, key=lambda label: mean(ends[label])):
        if label != other:
            groups[_told(difference(ends[label], ends[other]))].append(label)
    return Against(*(tuple(groups[side]) for side in (-1, 0, 1)))


def _told(apart: Difference) -> int:
    """The sign of a difference that is larger than its interval, else 0; one of single values tells nothing."""
    if apart.interval95 is None or abs(apart.mean) <= apart.interval95:
        return 0
    return 1 if apart.mean > 0 else -1


def mean(of: Mapping[int, float]) -> float:
    """Mean over seeds."""
    return float(np.mean(list(of.values())))


def baseline(searches: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the label of the first random search, with which the others are compared; None if there is none."""
    return next((label for label, entry in searches.items() if entry["method"] == BASELINE), None)


def sentences(what: str, found: Regrets, random: str | None) -> tuple[str, ...]:
    """Tell who ends best, by how much, and who cannot be told from it and from random search.

    Args:
        what: was searched.
        found: the regrets.
        random: label of the random search.
    """
    ends = final(found)
    order = sorted(ends, key=lambda label: mean(ends[label]))
    best = order[0]
    trials, seeds = len(next(iter(found[best].values()))), len(ends[best])
    told = f"Lowest mean regret on {what} after {trials} trials: {best}, {_number(ends[best])}"
    told += f" ({seeds} seeds" if seeds > 1 else " (1 seed, so that nothing is told apart"
    if random is not None and best != random:
        told += f"; {random}: {_number(ends[random])}"
    said = [f"{told})."]
    if seeds == 1:
        return tuple(said)
    near = against(ends, best)
    if near.alike:
        said.append(f"Not told from {best} within the 95 % interval of the difference: {', '.join(near.alike)}.")
    if random is not None:
        said += _against_random(ends, random)
    return tuple(said)


def _against_random(ends: Mapping[str, Mapping[int, float]], random: str) -> Iterator[str]:
    than = against(ends, random)
    if than.lower:
        yield f"Lower than {random}, by more than that interval: {_listed(ends, than.lower, random)}."
    if than.alike:
        yield f"Not told from {random}: {_listed(ends, than.alike, random)}."
    if than.higher:
        yield f"Higher than {random}, by more than that interval: {_listed(ends, than.higher, random)}."


def _listed(ends: Mapping[str, Mapping[int, float]], labels: Sequence[str], random: str) -> str:
    return ", ".join(f"{label} ({ratio(mean(ends[label]), mean(ends[random]))})" for label in labels)


def ratio(own: float, other: float) -> str:
    """How many times lower or higher a regret is than another."""
    if own == other:
        return "equal"
    low, high = sorted((own, other))
    if low == 0:
        return "regret 0" if own == 0 else f"{own:.3g} against 0"
    times = high / low
    if times < 1.05:
        return "about equal"
    return f"{f'{times:.1f}' if times < 10 else f'{times:,.0f}'} times {'lower' if own < other else 'higher'}"


def _number(of: Mapping[int, float]) -> str:
    summary = summarise(of)
    half = summary["interval95"]
    return f"{summary['mean']:.3g}" + ("" if half is None else f" ± {half:.2g}")
