"""The Pareto front against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlml.config import SearchConfig, parse
from mlml.search._front import pareto_front
from mlml.search._study import Record

SPACE = {"rate": {"type": "float", "low": 0, "high": 1}}


def search(directions: list[str]) -> SearchConfig:
    names = ["validation/loss", "cost/parameters", "validation/accuracy"][: len(directions)]
    first, *others = zip(names, directions, strict=True)
    declared = {"experiment": "a", "objective": "a", "space": SPACE, "metric": first[0], "direction": first[1]}
    return parse(SearchConfig, {**declared, "further_objectives": dict(others), "pruner": "none"}, "search.s")


def trials(config: SearchConfig, rows: list[tuple[float, ...]]) -> list[Record]:
    names = list(config.further_objectives)
    return [
        Record(k, "complete", row[0], {"rate": 0.5}, {}, None, dict(zip(names, row[1:], strict=True)))
        for k, row in enumerate(rows)
    ]


def numbers(config: SearchConfig, rows: list[tuple[float, ...]]) -> list[int]:
    return [record.number for record in pareto_front(trials(config, rows), config)]


def test_a_front_by_hand_in_each_direction():
    rows = [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.0, 3.0), (3.0, 3.0)]
    assert numbers(search(["minimize", "minimize"]), rows) == [1, 2, 0]
    assert numbers(search(["maximize", "maximize"]), rows) == [4]
    assert numbers(search(["minimize", "maximize"]), rows) == [1]
    assert numbers(search(["maximize", "minimize"]), rows) == [0]


def test_equals_are_all_on_the_front_and_a_tie_in_the_metric_alone_is_not():
    assert numbers(search(["minimize", "minimize"]), [(1.0, 2.0), (1.0, 1.0), (1.0, 1.0)]) == [1, 2]


def test_only_complete_trials_are_on_it():
    config = search(["minimize", "minimize"])
    done = trials(config, [(2.0, 2.0)])
    lost = [Record(1, "failed", None, {"rate": 0.5}, {}, "x"), Record(2, "pruned", 0.0, {"rate": 0.5}, {}, None)]
    assert pareto_front([*done, *lost], config) == done
    assert pareto_front(lost, config) == []


values = st.integers(-3, 3).map(float)  # few, so that ties come


@given(
    directions=st.lists(st.sampled_from(["minimize", "maximize"]), min_size=1, max_size=3),
    data=st.data(),
)
def test_it_is_what_nothing_beats(directions: list[str], data: st.DataObject):
    config = search(directions)
    row = st.tuples(*[values] * len(directions))
    rows = data.draw(st.lists(row, min_size=1, max_size=12))
    signs = np.array([1 if direction == "minimize" else -1 for direction in directions])
    costs = np.array(rows) * signs  # (n, m)
    beaten = [any((other <= one).all() and (other < one).any() for other in costs) for one in costs]
    expected = [k for k, lost in enumerate(beaten) if not lost]
    found = numbers(config, rows)
    assert sorted(found) == expected
    assert [costs[k, 0] for k in found] == sorted(costs[k, 0] for k in found)


def test_with_one_objective_the_front_is_the_best():
    assert numbers(search(["minimize"]), [(3.0,), (1.0,), (2.0,), (1.0,)]) == [1, 3]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_first_is_the_best_in_the_metric(direction: str):
    config = search([direction, "minimize"])
    rows = [(1.0, 1.0), (2.0, 2.0), (3.0, 0.5)] if direction == "minimize" else [(1.0, 0.1), (3.0, 2.0), (2.0, 1.0)]
    assert numbers(config, rows)[0] == (0 if direction == "minimize" else 1)
