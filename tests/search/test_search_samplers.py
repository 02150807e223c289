"""What each sampler tries: lists, grids, even points, generations, conditional dimensions."""

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import qmc

from mlml import catalogue
from mlml.config import DeclarationError, parse
from mlml.search._importance import importances
from mlml.search._outputs import write_outputs
from mlml.search._study import Record, run_study

RATE = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}
WIDTH = {"type": "int", "low": 8, "high": 32, "step": 8}
NAME = {"type": "categorical", "choices": ["adamw", "lars", None]}
SQUARE = {"x": {"type": "float", "low": -1.0, "high": 1.0}, "y": {"type": "float", "low": -1.0, "high": 1.0}}


def method(name: str, space: Any, **values: Any) -> Any:
    cls = catalogue.method_class("search", name)
    return cls(
        parse(
            cls.Config,
            {"experiment": "toy", "objective": "toy", "space": space, "pruner": "none", **values},
            "search.s",
        )
    )


def run(search: Any, folder: Path, objective: Any = lambda *_: 0.0, seed: int = 0) -> list[Record]:
    return run_study(search.config, search.sampler, folder, objective, seed)


def refusal(name: str, space: Any, **values: Any) -> str:
    with pytest.raises(DeclarationError) as caught:
        method(name, space, **values)
    [fault] = caught.value.faults
    return fault


def bowl(overrides: dict[str, Any], *_: Any) -> float:
    return float((overrides["x"] - 0.3) ** 2 + 4 * (overrides["y"] + 0.4) ** 2)


def test_a_grid_is_exactly_the_product(tmp_path: Path):
    search = method("grid", {"rate": RATE, "width": WIDTH, "name": NAME}, points={"rate": 4})
    records = run(search, tmp_path)
    expected = itertools.product([1e-4, 1e-3, 1e-2, 1e-1], [8, 16, 24, 32], ["adamw", "lars", None])
    for record, (rate, width, name) in zip(records, expected, strict=True):
        assert record.parameters == {"rate": pytest.approx(rate), "width": width, "name": name}
    assert search.config.trials == 48
    again = type(search.config).model_validate(search.config.model_dump())
    assert again == search.config


@pytest.mark.parametrize(
    ("dimension", "count", "values"),
    [
        ({"type": "float", "low": -1.0, "high": 1.0}, 5, [-1.0, -0.5, 0.0, 0.5, 1.0]),
        ({"type": "int", "low": 0, "high": 100, "step": 10}, 3, [0, 50, 100]),
        ({"type": "int", "low": 0, "high": 3}, 3, [0, 2, 3]),
        ({"type": "int", "low": 1, "high": 1000, "log": True}, 4, [1, 10, 100, 1000]),
    ],
)
def test_points_of_a_grid_are_even_on_their_own_scale(dimension: dict[str, Any], count: int, values: list[Any]):
    search = method("grid", {"x": dimension}, points={"x": count})
    assert [point["x"] for point in search.config.combinations()] == values


def test_a_faulty_grid_is_one_sentence():
    space = {"rate": RATE, "width": WIDTH}
    assert (
        refusal("grid", space, points={"rate": 2}, trials=9)
        == "search.s: has 8 combinations, but trials=9; leave trials out"
    )
    assert method("grid", space, points={"rate": 2}, trials=8).config.trials == 8
    assert refusal("grid", space) == "search.s: points: how many values of the float dimension 'rate'? name it there"
    assert (
        refusal("grid", space, points={"rate": 2, "widht": 3})
        == "search.s.points: 'widht' is no float or int dimension of the space (known: rate, width)"
    )
    assert (
        refusal("grid", space, points={"rate": 2, "width": 5})
        == "search.s.points: 'width' has no 5 different values that are evenly spaced"
    )
    small = {"n": {"type": "int", "low": 1, "high": 4, "log": True}}
    assert refusal("grid", small, points={"n": 5}).endswith("'n' has no 5 different values that are evenly spaced")
    assert refusal("grid", space, points={"rate": 1}).startswith("search.s.points.rate: must be greater than or equal")


def test_a_shuffled_grid_has_the_same_points_in_an_order_of_the_seed(tmp_path: Path):
    space = {"width": WIDTH, "name": NAME}
    plain = [record.parameters for record in run(method("grid", space), tmp_path / "plain")]
    search = method("grid", space, shuffle=True)
    orders = []
    for seed in (0, 1):
        tried = [record.parameters for record in run(search, tmp_path / f"{seed}", seed=seed)]
        orders.append([plain.index(point) for point in tried])
        assert sorted(orders[-1]) == list(range(12))
        part = method("grid", space, shuffle=True, trials=5)
        first = [record.parameters for record in run(part, tmp_path / f"part_{seed}", seed=seed)]
        assert first == tried[:5]
    assert orders[0] != orders[1]
    assert list(range(12)) not in orders


def test_how_many_trials_of_a_grid():
    space = {"width": WIDTH, "name": NAME}
    assert refusal("grid", space, shuffle=True, trials=13) == (
        "search.s: has 12 combinations, but trials=13; leave trials out"
    )
    assert refusal("grid", space, trials=5) == (
        "search.s: has 12 combinations, but trials=5; leave trials out, or set shuffle to true to try some of them"
    )
    assert method("grid", space, shuffle=True).config.trials == 12
    part = method("grid", space, shuffle=True, trials=5).config
    assert part.trials == 5
    assert type(part).model_validate(part.model_dump()) == part


def test_manual_trials_are_the_declared_ones(tmp_path: Path):
    values = [{"rate": 1e-4, "width": 32, "name": None}, {"rate": 1e-1, "width": 8, "name": "lars"}]
    search = method("manual", {"rate": RATE, "width": WIDTH, "name": NAME}, values=values)
    assert [record.parameters for record in run(search, tmp_path)] == values


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rate": 0.2}, "trial 1: 'rate' is 0.2, no value of the range [0.0001, 0.1]"),
        ({"width": 12}, "trial 1: 'width' is 12, no value of the range [8, 32]"),
        ({"width": 8.0}, "trial 1: 'width' is 8.0, no value of the range [8, 32]"),
        ({"width": 40}, "trial 1: 'width' is 40, no value of the range [8, 32]"),
        ({"rate": True}, "trial 1: 'rate' is True, no value of the range [0.0001, 0.1]"),
        ({"name": "sgd"}, "trial 1: 'name' is 'sgd', none of ['adamw', 'lars', None]"),
        ({"depth": 1}, "trial 1: 'depth' is no path of the space (known: rate, width, name)"),
        ({"width": ...}, "trial 1: needs a value of 'width'"),
    ],
)
def test_a_manual_trial_outside_of_the_space_is_one_sentence(change: dict[str, Any], sentence: str):
    good = {"rate": 1e-3, "width": 8, "name": None}
    bad = {path: value for path, value in {**good, **change}.items() if value is not ...}
    fault = refusal("manual", {"rate": RATE, "width": WIDTH, "name": NAME}, values=[good, bad])
    assert fault == f"search.s.values: {sentence}"


def test_manual_has_as_many_trials_as_values():
    fault = refusal("manual", {"width": WIDTH}, values=[{"width": 8}, {"width": 16}], trials=3)
    assert fault == "search.s: has 2 lists of values, but trials=3; leave trials out"
    assert refusal("manual", {"width": WIDTH}, values=[]).startswith("search.s.values: must")


def points(name: str, folder: Path, seed: int) -> np.ndarray:
    """Shares of the space of 32 trials in two dimensions."""
    records = run(method(name, SQUARE, trials=32), folder / f"{name}_{seed}", seed=seed)
    return (np.array([[record.parameters["x"], record.parameters["y"]] for record in records]) + 1) / 2


def test_quasi_random_points_are_more_even_than_random_ones(tmp_path: Path):
    for seed in range(3):
        even = qmc.discrepancy(points("quasi_random", tmp_path, seed))
        assert even < 0.25 * qmc.discrepancy(points("random", tmp_path, seed))
    sobol = points("quasi_random", tmp_path, 0)
    for axis in range(2):  # the first 32 points of a scrambled Sobol sequence: one in each 32nd of each axis
        assert sorted(np.floor(sobol[:, axis] * 32).astype(int)) == list(range(32))
    assert sobol[0].tolist() != points("quasi_random", tmp_path, 1)[0].tolist()


def test_a_quasi_random_point_is_a_function_of_its_number(tmp_path: Path):
    search = method("quasi_random", {"rate": RATE, "width": WIDTH, "name": NAME}, trials=8)
    plain = run(search, tmp_path / "plain")

    def failing(overrides: dict[str, Any], number: int, *_: Any) -> float:
        if number % 2:
            raise ValueError("broken")
        return float(number)

    assert [r.parameters for r in run(search, tmp_path / "failing", failing)] == [r.parameters for r in plain]
    assert sorted(str(r.parameters["width"]) for r in plain) == sorted(2 * ["8", "16", "24", "32"])


def test_shares_of_whole_numbers_and_choices_are_equal_and_logs_follow_their_scale():
    shares = (np.arange(4000) + 0.5) / 4000
    space = method(
        "random", {"w": WIDTH, "n": NAME, "b": {"type": "int", "low": 1, "high": 4, "log": True}}
    ).config.space
    assert [int((np.array([space["w"].at(s) for s in shares]) == w).sum()) for w in (8, 16, 24, 32)] == [1000] * 4
    drawn = [space["n"].at(s) for s in shares]
    assert all(abs(drawn.count(choice) - 4000 / 3) <= 1 for choice in ("adamw", "lars", None))
    logs = [space["b"].at(s) for s in shares]
    expected = [4000 * np.log((k + 0.5) / (k - 0.5)) / np.log(9) for k in range(1, 5)]
    assert all(abs(logs.count(k) - expected[k - 1]) <= 1 for k in range(1, 5))


def test_cma_es_goes_through_generations_and_they_survive_a_kill(tmp_path: Path):
    search = method("cmaes", SQUARE, trials=40)
    records = run(search, tmp_path / "whole", bowl)
    assert run(search, tmp_path / "whole_again", bowl) == records
    interrupted = set(range(0, 40, 3))

    def objective(overrides: dict[str, Any], number: int, *rest: Any) -> float:
        if number in interrupted:
            interrupted.remove(number)
            raise KeyboardInterrupt
        if number == 7:
            raise ValueError("broken")
        return bowl(overrides)

    while interrupted:  # each run reads the optimizer anew from the journal
        with pytest.raises(KeyboardInterrupt):
            run(search, tmp_path / "parts", objective)
    parts = run(search, tmp_path / "parts", objective)
    assert parts[:8] == [*records[:7], parts[7]]
    assert [record.state for record in parts].count("failed") == 1
    assert parts == run(search, tmp_path / "at_once", lambda o, n, *rest: objective(o, n))
    by_chance = run(method("random", SQUARE, trials=40), tmp_path / "random", bowl)
    late = [np.median([record.value for record in found[30:]]) for found in (records, by_chance)]
    assert late[0] < 0.1 * late[1]


def test_cma_es_refuses_choices():
    assert refusal("cmaes", {"rate": RATE, "optimizer": NAME}) == (
        "search.s.space: 'optimizer' is categorical, which CMA-ES cannot search; use tpe, gp or random"
    )


LINE = {"x": {"type": "float", "low": 0.0, "high": 1.0}}


@pytest.mark.parametrize(
    ("acquisition", "direction"),
    [
        *((name, "minimize") for name in ("log_ei", "ei", "ucb", "log_pi", "pi")),
        ("ei", "maximize"),
        ("ucb", "maximize"),
    ],
)
def test_bayesian_optimisation_beats_chance(acquisition: str, direction: Any, tmp_path: Path):
    sign = 1 if direction == "minimize" else -1
    best = 0.37

    def parabola(overrides: dict[str, Any], *_: Any) -> float:
        return float(sign * (overrides["x"] - best) ** 2)

    def late_gap(name: str, seed: int, **numbers: Any) -> float:
        """Median distance of the last four trials from the best point."""
        search = method(name, LINE, trials=9, direction=direction, **numbers)
        records = run(search, tmp_path / f"{name}_{seed}", parabola, seed)
        return float(np.median([abs(record.parameters["x"] - best) for record in records[5:]]))

    found = [late_gap("gp", seed, acquisition=acquisition, startup_trials=5) for seed in range(2)]
    assert max(found) < 0.1
    assert sum(found) < 0.25 * sum(late_gap("random", seed) for seed in range(2))


BRANCHES = {
    "optimizer.name": {"type": "categorical", "choices": ["sgd", "adamw"]},
    "optimizer.momentum": {"type": "float", "low": 0.5, "high": 0.99, "when": {"optimizer.name": "sgd"}},
    "optimizer.schedule": {"type": "categorical", "choices": ["step", None], "when": {"optimizer.name": "sgd"}},
    "optimizer.every": {"type": "int", "low": 1, "high": 3, "when": {"optimizer.schedule": "step"}},
    "rate": RATE,
}


def expected_paths(parameters: dict[str, Any]) -> list[str]:
    sgd = parameters["optimizer.name"] == "sgd"
    stepped = sgd and parameters["optimizer.schedule"] == "step"
    return [
        "optimizer.name",
        *(["optimizer.momentum", "optimizer.schedule"] if sgd else []),
        *(["optimizer.every"] if stepped else []),
        "rate",
    ]


@pytest.mark.parametrize("name", ["random", "quasi_random", "tpe", "gp", "gp ei"])
def test_a_conditional_dimension_is_drawn_where_it_applies(name: str, tmp_path: Path):
    values: dict[str, Any] = {} if "random" in name else {"startup_trials": 6}
    values |= {"acquisition": "ei"} if name == "gp ei" else {}
    seen = []

    def objective(overrides: dict[str, Any], *_: Any) -> float:
        seen.append(overrides)
        return float(overrides["rate"] + overrides.get("optimizer.momentum", 1.0))

    search = method(name.split()[0], BRANCHES, trials=14, **values)
    records = run(search, tmp_path / "study", objective)
    assert [record.parameters for record in records] == seen
    for record in records:
        assert list(record.parameters) == expected_paths(record.parameters)
    assert {len(record.parameters) for record in records} == {2, 4, 5}
    assert set(importances(search.config, records)) == {"optimizer.name", "rate"}
    write_outputs(search.config, records, tmp_path)
    with (tmp_path / "trials.csv").open(newline="") as file:
        for row, record in zip(csv.DictReader(file), records, strict=True):
            assert {path for path in BRANCHES if row[path]} >= set(record.parameters) - {"optimizer.schedule"}
            assert not any(row[path] for path in BRANCHES if path not in record.parameters)


def test_a_grid_and_a_list_have_the_branches_that_apply(tmp_path: Path):
    search = method("grid", BRANCHES, points={"optimizer.momentum": 2, "rate": 2})
    records = run(search, tmp_path / "grid")
    assert len(records) == search.config.trials == 2 * (3 + 1) * 2 + 2
    assert len({str(record.parameters) for record in records}) == len(records)
    assert all(list(record.parameters) == expected_paths(record.parameters) for record in records)
    values = [{"optimizer.name": "adamw", "rate": 1e-2}]
    assert run(method("manual", BRANCHES, values=values), tmp_path / "manual")[0].parameters == values[0]
    fault = refusal("manual", BRANCHES, values=[{**values[0], "optimizer.momentum": 0.9}])
    assert fault == ("search.s.values: trial 0: 'optimizer.momentum' is for {'optimizer.name': 'sgd'}; leave it out")


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (
            {"rate": RATE, "width": {**WIDTH, "when": {"rate": 0.1}}},
            "'width' depends on 'rate', which is no categorical dimension but of 'float'",
        ),
        (
            {"name": NAME, "width": {**WIDTH, "when": {"nam": "lars"}}},
            "'width' depends on 'nam', which is not searched; did you mean 'name'? (known: name, width)",
        ),
        (
            {"name": NAME, "width": {**WIDTH, "when": {"name": "sgd"}}},
            "'width' is for 'name' = 'sgd', which is none of ['adamw', 'lars', None]",
        ),
        (
            {"width": {**WIDTH, "when": {"name": "lars"}}, "name": NAME},
            "'width' depends on 'name' and must stand after it",
        ),
        (
            {"name": {**NAME, "when": {"name": "lars"}}, "width": WIDTH},
            "'name' depends on 'name' and must stand after it",
        ),
        (
            {
                "a": NAME,
                "b": {**NAME, "when": {"a": "lars"}},
                "width": {**WIDTH, "when": {"b": None, "a": "adamw"}},
            },
            "'width' is never drawn: it needs 'a' to be 'lars' and 'adamw'",
        ),
    ],
)
def test_a_condition_that_no_draw_can_meet_is_one_sentence(space: dict[str, Any], sentence: str):
    assert refusal("random", space) == f"search.s.space: {sentence}"
