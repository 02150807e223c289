"""The declared space: checked without torch or Optuna, drawn from, and put into an entry."""

import math
import subprocess
import sys
from typing import Any

import optuna
import pytest

from mlml import catalogue
from mlml.config import DeclarationError, SearchConfig, parse
from mlml.search._space import suggest

SPACE = {
    "temperature": {"type": "float", "low": 0.05, "high": 1.0, "log": True},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5},
    "encoder.width": {"type": "int", "low": 8, "high": 32, "step": 8},
    "train.batch_size": {"type": "int", "low": 16, "high": 1024, "log": True},
    "train.optimizer.name": {"type": "categorical", "choices": ["adamw", "lars"]},
    "ema": {"type": "categorical", "choices": [None, 0.9, 1, "x", False]},
}


def config(space: Any, **values: Any) -> SearchConfig:
    return parse(SearchConfig, {"experiment": "simclr", "objective": "simclr", "space": space, **values}, "search.s")


def test_configs_need_neither_torch_nor_optuna():
    script = f"""
import sys
for name in ("torch", "optuna", "matplotlib", "scipy"):
    sys.modules[name] = None
import mlml.search
from mlml import catalogue
from mlml.config import parse
found = catalogue.names("search")
assert found == ["cmaes", "gp", "grid", "manual", "quasi_random", "random", "tpe"], found
for name in found:
    entry = {{"experiment": "simclr", "objective": "simclr", "space": {SPACE!r}}}
    if name == "cmaes":
        entry["space"] = {{path: entry["space"][path] for path in ("dropout", "encoder.width")}}
    if name == "grid":
        entry["points"] = {{"temperature": 2, "dropout": 3, "train.batch_size": 2}}
    if name == "manual":
        entry["values"] = [{{path: dimension.get("low", "lars") for path, dimension in entry["space"].items()}}]
        entry["values"][0]["ema"] = 1
    config = parse(catalogue.config_class("search", name), entry, "search.s")
    assert config.max_trials == {{"grid": 2 * 3 * 4 * 2 * 2 * 5, "manual": 1}}.get(name, 20)
    assert config.space["encoder.width"].step == 8
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("method", catalogue.names("search"))
def test_unknown_keys_are_refused_with_the_methods_own_keys(method: str):
    with pytest.raises(DeclarationError, match=r"(?m)^search\.s\.trails: unknown key; did you mean 'trials'\?"):
        parse(
            catalogue.config_class("search", method),
            {"experiment": "e", "objective": "e", "space": SPACE, "trails": 3},
            "search.s",
        )


@pytest.mark.parametrize(
    ("dimension", "sentence"),
    [
        ({"type": "float", "low": 1.0, "high": 0.5}, "search.s.space.a.b: needs low < high; got low=1.0, high=0.5"),
        ({"type": "int", "low": 3, "high": 3}, "search.s.space.a.b: needs low < high; got low=3, high=3"),
        (
            {"type": "float", "low": 0, "high": 1, "log": True},
            "search.s.space.a.b: a log scale needs low > 0; got low=0.0",
        ),
        ({"type": "int", "low": 0, "high": 9, "log": True}, "search.s.space.a.b: a log scale needs low > 0; got low=0"),
        (
            {"type": "int", "low": 1, "high": 9, "log": True, "step": 2},
            "search.s.space.a.b: a log scale has no step; got step=2",
        ),
        (
            {"type": "int", "low": 8, "high": 30, "step": 8},
            "search.s.space.a.b: needs high = low + a multiple of step; got 8, 30, step=8",
        ),
        (
            {"type": "categorical", "choices": ["x", "x"]},
            "search.s.space.a.b.choices: must be two or more different texts, numbers, booleans or null; "
            "got ['x', 'x']",
        ),
        (
            {"type": "categorical", "choices": [[0.1, 1.0], [0.5, 1.0]]},
            "search.s.space.a.b.choices: must be two or more different texts, numbers, booleans or null; "
            "got [[0.1, 1.0], [0.5, 1.0]]",
        ),
        (
            {"type": "flaot", "low": 0.1, "high": 1.0},
            "search.s.space.a.b.type: unknown value 'flaot'; did you mean 'float'? (known: categorical, float, int)",
        ),
        ({"low": 0.1, "high": 1.0}, "search.s.space.a.b.type: required, but not given"),
        ({"type": "float", "low": 0.1}, "search.s.space.a.b.high: required, but not given"),
        (
            {"type": "float", "lo": 0.1, "low": 0.1, "high": 1},
            "search.s.space.a.b.lo: unknown key; did you mean 'low'? (known: high, log, low, type, when)",
        ),
        (
            {"type": "float", "low": math.nan, "high": 1},
            "search.s.space.a.b.low: must be a finite number; got nan",
        ),
    ],
)
def test_a_faulty_dimension_is_one_sentence(dimension: dict[str, Any], sentence: str):
    with pytest.raises(DeclarationError) as caught:
        config({"a.b": dimension})
    assert caught.value.faults == (sentence,)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"space": {}}, "search.s.space: must name at least one value to search, by its dotted path"),
        ({"space": {"a..b": SPACE["dropout"]}}, "search.s.space: a dotted path has no empty part; got 'a..b'"),
        (
            {"space": {"a.b": SPACE["dropout"], "a": SPACE["dropout"]}},
            "search.s.space: 'a' holds 'a.b'; search one of the two",
        ),
        (
            {"metric": "test/accuracy"},
            "search.s.metric: must be a metric of the validation split, 'validation/...'; got 'test/accuracy'",
        ),
        ({"direction": "up"}, "search.s.direction: unknown value 'up' (known: maximize, minimize)"),
        ({"trials": 0}, "search.s.trials: must be greater than 0; got 0"),
    ],
)
def test_a_faulty_search_is_one_sentence(values: dict[str, Any], sentence: str):
    with pytest.raises(DeclarationError) as caught:
        config(**{"space": SPACE, **values})
    assert caught.value.faults == (sentence,)


def test_draws_stay_in_the_space_and_follow_its_scales():
    space = config(SPACE).space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    draws = [suggest(study.ask(), space) for _ in range(400)]
    assert all(list(draw) == list(SPACE) for draw in draws)
    assert {draw["encoder.width"] for draw in draws} == {8, 16, 24, 32}
    assert {repr(draw["ema"]) for draw in draws} == {"None", "0.9", "1", "'x'", "False"}
    for path, middle in (("temperature", math.sqrt(0.05)), ("dropout", 0.25), ("train.batch_size", 128)):
        values = sorted(draw[path] for draw in draws)
        assert space[path].ends()[0] <= values[0]
        assert values[-1] <= space[path].ends()[1]
        below = sum(value < middle for value in values) / len(values)
        assert abs(below - 0.5) < 0.1  # four standard deviations
