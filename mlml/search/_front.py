"""The Pareto front: the trials that no other beats."""

from collections.abc import Sequence

from mlml.config import SearchConfig
from mlml.search._study import Record


def objectives(record: Record, config: SearchConfig) -> dict[str, float]:
    """Return the values of a complete trial by metric, the search's `metric` first."""
    assert record.value is not None  # it is complete
    return {config.metric: record.value, **{metric: record.further[metric] for metric in config.further_objectives}}


def pareto_front(records: Sequence[Record], config: SearchConfig) -> list[Record]:
    """Return the complete trials that are not dominated, the best in the search's `metric` first, then by number.

    A trial dominates another if it is nowhere worse and somewhere better; of trials that are equal in everything, all
    are on the front. With one objective the front holds the best trial and its equals.
    """
    costs = {record.number: _costs(record, config) for record in records if record.state == "complete"}
    front = [
        record
        for record in records
        if record.number in costs and not any(_dominates(other, costs[record.number]) for other in costs.values())
    ]
    return sorted(front, key=lambda record: (costs[record.number][0], record.number))


def _costs(record: Record, config: SearchConfig) -> tuple[float, ...]:
    """Values of a trial, each to be minimised."""
    values = objectives(record, config)
    return tuple(values[metric] * (1 if way == "minimize" else -1) for metric, way in config.directions.items())


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
