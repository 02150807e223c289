"""The functions at their published optima, and findings that are those of the searches."""

import math

import numpy as np
import pytest
from botorch.test_functions import Branin, Hartmann
from scipy.optimize import minimize
from torch import tensor

from mlml import catalogue
from mlml.illustrations._objectives import OBJECTIVES
from mlml.illustrations.search_regret import SearchRegret
from mlml.search._study import run_study

PEERS = {"branin": Branin(), "hartmann6": Hartmann(dim=6)}


def value(name, point):
    objective = OBJECTIVES[name]
    return objective.function(dict(zip(objective.box, map(float, point), strict=True)))


def drawn(name, count, seed=0):
    low, high = np.array(list(OBJECTIVES[name].box.values())).T
    return low + (high - low) * np.random.default_rng(seed).random((count, len(low)))


def test_published_optima():
    """Branin: 0.397887 at three points; Hartmann-6: -3.32237 at one (Surjanovic & Bingham)."""
    assert OBJECTIVES["branin"].minimum == pytest.approx(0.397887, abs=1e-6)
    assert OBJECTIVES["hartmann6"].minimum == pytest.approx(-3.32237, abs=1e-5)
    for name, objective in OBJECTIVES.items():
        assert len(objective.minimisers) == {"branin": 3, "hartmann6": 1}[name]
        for point in objective.minimisers:
            assert value(name, point) == pytest.approx(objective.minimum, abs=1e-5)
    assert value("branin", (0, 0)) == pytest.approx(36 + 20 - 10 / (8 * math.pi))  # 6² + 10 (1 - 1/8π) + 10


@pytest.mark.parametrize("name", OBJECTIVES)
def test_values_are_those_of_botorch(name):
    points = drawn(name, 50)
    np.testing.assert_allclose(
        [value(name, point) for point in points], PEERS[name](tensor(points)).double().numpy(), rtol=1e-5, atol=1e-6
    )
    assert [list(pair) for pair in OBJECTIVES[name].box.values()] == PEERS[name].bounds.T.tolist()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nothing_in_the_box_is_lower_than_the_minimum(name):
    """Descents from many points end at the minimum, and never below it."""
    objective = OBJECTIVES[name]
    starts = [*drawn(name, 15, seed=1), *objective.minimisers]
    box = list(objective.box.values())
    ends = [minimize(lambda x: value(name, x), start, bounds=box, tol=1e-14).fun for start in starts]
    assert min(ends) == pytest.approx(objective.minimum, abs=1e-9)
    assert min(ends) >= objective.minimum - 1e-9


def numbers(**changed):
    searches = {"grid": {"method": "grid", "points": {"x": 4, "y": 3}}, "luck": {"method": "random"}}
    return {"function": "branin", "trials": 12, "num_seeds": 2, "searches": searches, **changed}


def test_findings_are_those_of_the_searches(tmp_path):
    config = SearchRegret.Config.model_validate(numbers())
    found = SearchRegret(config).illustrate()
    cls = catalogue.method_class("search", "random")
    shared = {"experiment": "f", "objective": "f", "space": OBJECTIVES["branin"].space(), "trials": 12}
    search = cls(cls.Config.model_validate({**shared, "pruner": "none"}))
    for seed in (0, 1):
        alone = run_study(
            search.config, search.sampler, tmp_path / str(seed), lambda v, *_: OBJECTIVES["branin"].function(v), seed
        )
        least = min(record.value for record in alone)
        assert found.metrics[seed]["luck/regret"] == pytest.approx(least - 10 / (8 * math.pi))
    grid = min(value("branin", (x, y)) for x in (-5, 0, 5, 10) for y in (0, 7.5, 15)) - 10 / (8 * math.pi)
    assert found.metrics[0]["grid/regret"] == found.metrics[1]["grid/regret"] == pytest.approx(grid)
    assert len(found.table) == 2 * 2 * 12
    assert set(found.pictures) == {"regret", "regret at the end"}
    assert "on branin after 12 trials: " in found.sentences[0]


def test_the_config_survives_its_own_dump():
    config = SearchRegret.Config.model_validate(numbers())
    assert SearchRegret.Config.model_validate(config.model_dump()) == config


def test_a_process_beats_random_search_on_branin():
    """The aim of the comparison, small: five seeds and 25 trials, where it is at least three times."""
    searches = {"random": {"method": "random"}, "gp": {"method": "gp"}}
    config = SearchRegret.Config.model_validate(numbers(trials=25, num_seeds=5, searches=searches))
    metrics = SearchRegret(config).illustrate().metrics
    mean = {label: np.mean([of[f"{label}/regret"] for of in metrics.values()]) for label in searches}
    assert mean["gp"] < mean["random"] / 3
