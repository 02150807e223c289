"""Whether a search has found what it can: sentences for people.

Each says what the trials showed and no more: a bound beyond which nothing was tried, not that something is there.
"""

from collections.abc import Sequence

from mlml.config import SearchConfig
from mlml.search._front import pareto_front
from mlml.search._scale import Numeric, numeric, share, written
from mlml.search._study import Record, best

MIN_COMPLETE = 9
"""Complete trials, so that the last third is three of them: with fewer nothing is said about convergence."""

SMALL_SHARE = 0.05
"""Of all that was gained: a search whose last third gained less has converged."""

BOUND_SHARE = 0.02
"""Of a dimension's range: a best that is nearer to a bound is said to lie at it."""

_PLANNED = ("grid", "manual")
"""Methods whose trials come in the order of their declaration, which says nothing about what more would bring."""


def sentences(config: SearchConfig, records: Sequence[Record]) -> list[str]:
    """Return what the trials say about the search: whether it has converged, and which bounds its best lies at."""
    complete = [record for record in records if record.state == "complete"]
    if len({record.value for record in complete}) == 1 and len(complete) > 1 and not config.further_objectives:
        return [f"All {len(complete)} complete trials have the same {config.metric}: nothing tried made a difference."]
    said: list[str] = []
    if type(config).__module__.rpartition(".")[2] not in _PLANNED:
        said.append(_of_front(config, records) if config.further_objectives else _of_best(config, records))
    return said + _of_bounds(config, complete)


def _last_third(records: Sequence[Record]) -> tuple[list[Record], str]:
    """Return the complete trials before the last third of all, and how to call that third."""
    last = len(records) // 3
    before = [record for record in records[: len(records) - last] if record.state == "complete"]
    return before, f"the last {last} of {len(records)} trials"


def _too_few(config: SearchConfig, records: Sequence[Record]) -> str | None:
    """What is said where the trials do not tell."""
    complete = sum(record.state == "complete" for record in records)
    before, third = _last_third(records)
    if complete < MIN_COMPLETE:
        trials = f"{complete} complete trial{'' if complete == 1 else 's'}"
        return f"{trials}: too few to tell whether the search has converged (that takes {MIN_COMPLETE})."
    if not before:
        return f"All complete trials are among {third}: too late a beginning to tell whether the search has converged."
    return None


def _of_best(config: SearchConfig, records: Sequence[Record]) -> str:
    """Whether the best value still moved in the last third of the trials."""
    if too_few := _too_few(config, records):
        return too_few
    before, third = _last_third(records)
    first = before[0]
    values = [record.value for record in (first, best(before, config.direction), best(records, config.direction))]
    began, was, ended = (float(value) for value in values if value is not None)
    gained, late = abs(ended - began), abs(ended - was)
    if gained == 0:
        return f"No trial after the first complete one, trial {first.number}, has a better {config.metric}."
    since = f"from {written(began)} in trial {first.number} to {written(ended)}"
    moved = f"{config.metric} improved {since}, {100 * late / gained:.0f} % of that in {third}"
    if late < SMALL_SHARE * gained:
        return f"{moved}: the search has converged."
    return f"{moved}: it was still improving, give it more trials."


def _of_front(config: SearchConfig, records: Sequence[Record]) -> str:
    """Whether the Pareto front still moved in the last third of the trials."""
    if too_few := _too_few(config, records):
        return too_few
    before, third = _last_third(records)
    held = {record.number for record in before}
    front = pareto_front(records, config)
    new = sum(record.number not in held for record in front)
    trials = "1 trial" if len(front) == 1 else f"{len(front)} trials"
    moved = f"{new} of the {trials} of the Pareto front came in {third}"
    if new == 0:
        return f"{moved}: the search has converged."
    return f"{moved}: it was still improving, give it more trials."


def _of_bounds(config: SearchConfig, complete: Sequence[Record]) -> list[str]:
    """At which bounds of the numeric dimensions the best lies; of equals, all must lie there."""
    if len(complete) < MIN_COMPLETE:
        return []
    found = best(complete, config.direction)
    equals = [record.parameters for record in complete if record.value == found.value]
    said: list[str] = []
    inside: dict[str, float] = {}
    for path, dimension in numeric(config.space).items():
        if path not in found.parameters:  # it has no part in the best
            continue
        shares = [share(dimension, parameters[path]) for parameters in equals if path in parameters]
        if max(shares) <= BOUND_SHARE:
            said.append(_at_bound(path, dimension, "lower", dimension.low, found))
        elif min(shares) >= 1 - BOUND_SHARE:
            said.append(_at_bound(path, dimension, "upper", dimension.high, found))
        else:
            own = share(dimension, found.parameters[path])
            inside[path] = min(own, 1 - own)
    if inside and not said:
        path, nearest = min(inside.items(), key=lambda item: item[1])
        scale = " on its log scale" if numeric(config.space)[path].log else ""
        where = f"{path}'s nearest bound is {100 * nearest:.0f} % of its range away{scale}"
        if nearest > BOUND_SHARE:
            said.append(f"The best {config.metric} lies inside of all numeric ranges: {where}.")
    return said


def _at_bound(path: str, dimension: Numeric, which: str, bound: float, found: Record) -> str:
    value = found.parameters[path]
    exactly = "" if value == bound else f", at {written(value)}"
    beyond = "below" if which == "lower" else "above"
    wider = f"nothing {beyond} was tried, so widen the range if it can be wider"
    return f"{path}'s best lies at the {which} bound {written(bound)}{exactly}: {wider}."
