"""Pruners: where a trial ends, and that a kill between an evaluation and the decision changes nothing."""

import os
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import pytest

from mlml.config import DeclarationError, SearchConfig, parse
from mlml.search._storage import Journal
from mlml.search._study import Record, run_study
from mlml.search.random import Random

SPACE = {"x": {"type": "float", "low": 0.0, "high": 1.0}}
HALVING = {"pruner": "successive_halving", "pruner_min_steps": 10, "pruner_reduction": 2}
HYPERBAND = {"pruner": "hyperband", "pruner_min_steps": 10, "pruner_max_steps": 40, "pruner_reduction": 2}
MEDIAN = {"pruner": "median", "pruner_startup_trials": 1}
STEPS = range(5, 45, 5)


def search(**values: Any) -> Random:
    return Random(
        parse(
            Random.Config, {"experiment": "toy", "objective": "toy", "space": SPACE, "trials": 12, **values}, "search.s"
        )
    )


def run(method: Random, folder: Path, objective: Any, seed: int = 0) -> list[Record]:
    return run_study(method.config, method.sampler, folder, objective, seed)


def falling(overrides: dict[str, Any], number: int, folder: Path, report: Callable[[int, float], None]) -> float:
    """A metric that is the better the smaller x, and better with every step; notes how far it came."""
    folder.mkdir(exist_ok=True)
    for step in STEPS:
        with (folder / "steps.log").open("a") as log:
            log.write(f"{step}\n")
        report(step, overrides["x"] + 1 / step)
    return float(overrides["x"])


def halved(records: list[Record], sign: int, rungs: list[int], reduction: int) -> list[tuple[int, str]]:
    """End of each trial by asynchronous successive halving (Li et al. 2020, Algorithm 2), one trial after another."""
    reached: dict[int, list[float]] = {rung: [] for rung in rungs}
    found = []
    for record in records:
        end = (STEPS[-1], "complete")
        for rung in rungs:
            values = reached[rung]
            values.append(sign * (record.parameters["x"] + 1 / rung))
            if values[-1] > sorted(values)[max(0, len(values) // reduction - 1)]:
                end = (rung, "pruned")
                break
        found.append(end)
    return found


def ends(records: list[Record]) -> list[tuple[int, str]]:
    return [(max(record.evaluations), record.state) for record in records]


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1), ("maximize", -1)])
def test_successive_halving_keeps_the_best_of_each_rung(direction: str, sign: int, tmp_path: Path):
    records = run(search(**HALVING, direction=direction, trials=20), tmp_path, falling)
    assert ends(records) == halved(records, sign, [10, 20, 40], 2)
    assert {(10, "pruned"), (20, "pruned"), (40, "complete")} <= set(ends(records))


def test_hyperband_halves_in_brackets_with_other_first_rungs(tmp_path: Path):
    records = run(search(**HYPERBAND, trials=40), tmp_path / "a", falling)
    pruner = optuna.pruners.HyperbandPruner(10, 40, 2)
    study = optuna.create_study(study_name="0")
    study.add_trials([optuna.trial.create_trial(value=0.0) for _ in records])
    pruner._try_initialization(study)
    brackets = [pruner._get_bracket_id(study, trial) for trial in study.trials]
    assert set(brackets) == {0, 1, 2}
    for bracket in range(3):
        own = [record for record, of in zip(records, brackets, strict=True) if of == bracket]
        assert ends(own) == halved(own, 1, [10, 20, 40][bracket:], 2)
    assert {(10, "pruned"), (20, "pruned"), (40, "complete")} <= set(ends(records))
    other = run(search(**HYPERBAND, trials=40), tmp_path / "b", falling, seed=1)
    assert ends(other) != ends(records)


@pytest.mark.parametrize("pruner", [MEDIAN, HALVING, HYPERBAND], ids=lambda pruner: pruner["pruner"])
def test_a_pruned_trial_stops_at_the_evaluation_that_decides(pruner: dict[str, Any], tmp_path: Path):
    records = run(search(**pruner), tmp_path, falling)
    pruned = [record for record in records if record.state == "pruned"]
    assert len(pruned) >= 3
    assert min(max(record.evaluations) for record in pruned) < STEPS[-1]
    for record in records:  # the work behind an evaluation begins only after the decision
        steps = (tmp_path / "trials" / f"{record.number:04d}" / "steps.log").read_text().split()
        assert [int(step) for step in steps] == list(record.evaluations)


def briefly(overrides: dict[str, Any], number: int, folder: Path, report: Callable[[int, float], None]) -> float:
    for step in (10, 20):
        report(step, overrides["x"])
    return float(overrides["x"])


@pytest.mark.parametrize("pruner", [MEDIAN, HALVING, HYPERBAND], ids=lambda pruner: pruner["pruner"])
def test_killed_at_any_write_a_study_prunes_the_same(pruner: dict[str, Any], tmp_path: Path):
    method = search(**pruner, trials=5)
    expected = run(method, tmp_path / "whole", briefly)
    assert {record.state for record in expected} == {"complete", "pruned"}
    writes = len((tmp_path / "whole" / "journal.log").read_bytes().splitlines())
    append = Journal.append_logs
    for number in range(writes):
        folder = tmp_path / f"killed_{number}"
        child = os.fork()
        if child == 0:
            numbers = count()

            def dying(self: Any, logs: Any, numbers: Any = numbers, number: int = number) -> None:
                append(self, logs)
                if next(numbers) == number:
                    os.kill(os.getpid(), signal.SIGKILL)

            Journal.append_logs = dying
            try:
                run(method, folder, briefly)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert run(method, folder, briefly) == expected, f"killed after write {number}"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"pruner": "successive_halving"}, "search.s: the pruner 'successive_halving' needs pruner_min_steps"),
        ({"pruner": "hyperband", "pruner_min_steps": 5}, "search.s: the pruner 'hyperband' needs pruner_max_steps"),
        ({"pruner_min_steps": 5}, "search.s: the pruner 'median' has no pruner_min_steps"),
        ({**HALVING, "pruner_max_steps": 50}, "search.s: the pruner 'successive_halving' has no pruner_max_steps"),
        (
            {**HYPERBAND, "pruner_max_steps": 10},
            "search.s: needs pruner_min_steps < pruner_max_steps; got 10 and 10",
        ),
        (
            {"pruner": "hyperbland"},
            "search.s.pruner: unknown value 'hyperbland'; did you mean 'hyperband'? "
            "(known: asha, hyperband, median, none, successive_halving)",
        ),
    ],
)
def test_a_faulty_pruner_is_one_sentence(values: dict[str, Any], sentence: str):
    with pytest.raises(DeclarationError) as caught:
        parse(SearchConfig, {"experiment": "toy", "objective": "toy", "space": SPACE, **values}, "search.s")
    assert caught.value.faults == (sentence,)
