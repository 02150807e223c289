"""A study killed at any moment ends as an uninterrupted one; pruning, failures, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import pytest

from mlml import catalogue
from mlml.config import parse
from mlml.search._space import suggest
from mlml.search._storage import FileLock, Journal, journal_storage
from mlml.search._study import Record, SearchError, _Search, best, run_study
from mlml.seeds import derive

SPACE = {
    "rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "width": {"type": "int", "low": 8, "high": 32, "step": 8},
    "name": {"type": "categorical", "choices": ["adamw", "lars", None]},
}
NUMBERS = {path: SPACE[path] for path in ("rate", "width")}
METHODS: dict[str, dict[str, Any]] = {
    "random": {},
    "quasi_random": {},
    "tpe": {"startup_trials": 2},
    "gp": {"startup_trials": 2},
    "gp ucb": {"startup_trials": 2, "acquisition": "ucb"},
    "cmaes": {"space": NUMBERS},
    "grid": {"points": {"rate": 3}, "space": {"rate": SPACE["rate"], "width": {**SPACE["width"], "high": 16}}},
    "manual": {"values": [{"rate": 1e-3 * k, "width": 8 * k, "name": None} for k in (1, 2, 3, 4, 1, 1)]},
}
LISTED = ("grid", "manual")
"""Their trials follow from the declaration alone."""

STEPS = (10, 20, 30)
PRUNED, FAILING = 1, 2
BASE = {PRUNED: 100.0, FAILING: -100.0}


def method(name: str, **values: Any) -> Any:
    cls = catalogue.method_class("search", name.split()[0])
    entry = {
        "experiment": "toy",
        "objective": "toy",
        "space": SPACE,
        "trials": 6,
        "pruner_startup_trials": 1,
        **METHODS[name],
        **values,
    }
    return cls(parse(cls.Config, entry, "search.toy"))


def run(search: Any, folder: Path, objective: Any, seed: int = 0) -> list[Record]:
    return run_study(search.config, search.sampler, folder, objective, seed)


def toy(overrides: dict[str, Any], number: int, folder: Path, report: Callable[[int, float], None]) -> float:
    """A training in small: its state depends on every step, and it goes on from the checkpoint in its folder."""
    folder.mkdir(exist_ok=True)
    checkpoint = folder / "state.json"
    state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "total": BASE.get(number, 0.0)}
    for step in STEPS:
        if step <= state["step"]:
            continue
        with (folder / "steps.log").open("a") as log:
            log.write(f"{step}\n")
        if number == FAILING and step == STEPS[-1]:
            raise RuntimeError("train: the loss at step 30 is nan")
        draw = derive(repr(sorted(overrides.items())), step) / 2**63
        state = {"step": step, "total": state["total"] + draw + overrides["rate"]}
        report(step, state["total"])
        partial = folder / "partial"
        partial.write_text(json.dumps(state))
        partial.replace(checkpoint)
    return float(state["total"])


def interrupted_at(moments: set[tuple[int, int]]) -> Any:
    """The toy, interrupted right after some reports (number, step), once each."""

    def objective(overrides: dict[str, Any], number: int, folder: Path, report: Callable[[int, float], None]) -> float:
        def interrupting(step: int, value: float) -> None:
            report(step, value)
            if (number, step) in moments:
                moments.remove((number, step))
                raise KeyboardInterrupt

        return toy(overrides, number, folder, interrupting)

    return objective


@pytest.mark.parametrize("name", METHODS)
def test_a_seed_decides_the_study_and_an_interrupted_one_ends_the_same(name: str, tmp_path: Path):
    expected = run(method(name), tmp_path / "whole", toy)
    assert [record.number for record in expected] == list(range(6))
    assert {record.state for record in expected} == {"complete", "pruned", "failed"}
    moments = {(number, step) for number in range(6) for step in (10, 20)}
    objective = interrupted_at(moments)
    interruptions = 0
    while True:
        try:
            resumed = run(method(name), tmp_path / "parts", objective)
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert resumed == expected
    assert interruptions >= 4
    assert run(method(name), tmp_path / "parts", None) == expected  # nothing runs again
    other = run(method(name), tmp_path / "other", toy, seed=1)
    assert (other[0].parameters == expected[0].parameters) == (name in LISTED)


@pytest.mark.parametrize("name", METHODS)
def test_trials_are_those_of_an_ordinary_study_of_optuna(name: str, tmp_path: Path):
    search = method(name, pruner="none")
    records = run(search, tmp_path, toy)
    study = optuna.create_study()
    for record in records:
        study.sampler = search.sampler(derive(0, "trial", record.number) % 2**32, 0)
        trial = study.ask()
        assert suggest(trial, search.config.space) == record.parameters
        if record.state == "complete":
            study.tell(trial, record.value)
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert len(study.trials) == 6


def test_later_trials_use_what_earlier_ones_found(tmp_path: Path):
    first = run(method("tpe"), tmp_path / "a", lambda o, n, f, r: o["rate"])
    second = run(method("tpe"), tmp_path / "b", lambda o, n, f, r: -o["rate"])
    assert [a.parameters == b.parameters for a, b in zip(first, second, strict=True)][:3] == [True, True, False]


def outputs(search: Any, records: list[Record], folder: Path) -> dict[str, bytes]:
    from mlml.search._outputs import write_outputs  # not above: the worker's start would wait for matplotlib

    write_outputs(search.config, records, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def end_with(work: Callable[[], None]) -> None:
    """Do the work of a forked process, and end it without going back into pytest."""
    try:
        work()
    finally:
        os._exit(1)


def in_fork(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; returns how it ended, as `subprocess` does."""
    child = os.fork()
    if child == 0:
        end_with(work)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_write(number: int, moment: str) -> None:
    """From now on, this process dies at its n-th write to a journal: in the middle of the line, or after it."""
    numbers = count()
    append = Journal.append_logs

    def dying(self: Any, logs: list[dict[str, Any]]) -> None:
        if next(numbers) == number:
            if moment == "torn":
                self._lock.acquire()  # dies with the lock in its hand
                with open(self._file_path, "ab") as file:
                    file.write(json.dumps(logs[0]).encode()[:20])
            elif moment == "after":
                append(self, logs)
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, logs)

    Journal.append_logs = dying


@pytest.mark.parametrize("moment", ["torn", "after"])
def test_killed_at_any_write_it_ends_with_the_same_bytes(moment: str, tmp_path: Path):
    search = method("tpe", trials=4)
    expected = run(search, tmp_path / "whole", toy)
    assert [record.state for record in expected][:3] == ["complete", "pruned", "failed"]
    writes = len((tmp_path / "whole" / "journal.log").read_bytes().splitlines())
    assert writes > 15

    for number in range(writes):
        folder = tmp_path / f"killed_{number}"

        def dying(folder: Path = folder, number: int = number) -> None:
            kill_at_write(number, moment)
            run(search, folder, toy)

        assert in_fork(dying) == -signal.SIGKILL
        records = run(search, folder, toy)
        assert records == expected, f"killed at write {number}"
        for record in records:
            steps = (folder / "trials" / f"{record.number:04d}" / "steps.log").read_text().split()
            assert len(steps) <= len(set(steps)) + 1  # at most the step under way was done again


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_search_study
test_search_study.run_until(Path(sys.argv[1]), sys.argv[2])
"""


def run_until(folder: Path, moment: str) -> None:
    """Run the study up to a moment, and wait there for the end."""

    def reach(now: str) -> None:
        if now == moment:
            (folder / "held").touch()
            signal.pause()

    def objective(overrides: dict[str, Any], number: int, own: Path, report: Callable[[int, float], None]) -> float:
        def reaching(step: int, value: float) -> None:
            report(step, value)
            reach(f"report {number} {step}")

        reach(f"begin {number}")
        value = toy(overrides, number, own, reaching)
        reach(f"end {number}")
        return value

    run(method("tpe"), folder, objective)


def wait_until_held(folder: Path, process: int) -> None:
    while not (folder / "held").exists():
        assert os.waitpid(process, os.WNOHANG) == (0, 0), "the worker ended before it came to its moment"
        time.sleep(0.01)
    (folder / "held").unlink()


def test_a_killed_process_loses_nothing_and_a_live_one_is_left_alone(tmp_path: Path):
    search = method("tpe")
    expected = outputs(search, run(search, tmp_path / "whole", toy), tmp_path / "whole_outputs")
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent)))
    folder = tmp_path / "killed"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, str(script), str(folder), "report 0 20"])
    try:
        wait_until_held(folder, process.pid)
        beside = _Search.open(search.config, search.sampler, folder, 0, "search", join=True)
        assert beside.claim() is None  # its trial is being run, and the next one waits for it
        assert not beside.work(toy)
    finally:
        process.kill()
        process.wait()
    for moment in ("begin 3", "report 3 10", "end 4"):
        child = os.fork()
        if child == 0:
            end_with(lambda moment=moment: run_until(folder, moment))
        wait_until_held(folder, child)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    records = run(search, folder, toy)
    assert (folder / "trials" / "0000" / "steps.log").read_text().split() == ["10", "20", "20", "30"]
    assert outputs(search, records, tmp_path / "killed_outputs") == expected


def test_a_process_killed_inside_the_journals_lock_delays_nobody(tmp_path: Path):
    journal_storage(tmp_path / "journal.log")

    def work() -> None:
        storage = journal_storage(tmp_path / "journal.log")
        storage._backend._lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_fork(work) == -signal.SIGKILL
    lock = FileLock(tmp_path / "journal.log.flock")
    assert lock.acquire(wait=False)
    assert not FileLock(tmp_path / "journal.log.flock").acquire(wait=False)
    lock.release()
    assert not list(tmp_path.glob("*.lock"))  # Optuna's own lock is not in use


def reporting(values: list[list[float]], asked: list[int] | None = None) -> Any:
    """An objective that reports fixed values at steps 0, 1, ... and returns the last."""

    def objective(overrides: dict[str, Any], number: int, folder: Path, report: Callable[[int, float], None]) -> float:
        if asked is not None:
            asked.append(number)
        for step, value in enumerate(values[number]):
            report(step, value)
        return values[number][-1]

    return objective


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1), ("maximize", -1)])
def test_a_trial_worse_than_the_median_is_pruned_at_that_evaluation(direction: str, sign: int, tmp_path: Path):
    curves = [[9.0, 1.0], [8.0, 3.0], [7.0, 2.0], [7.5, 2.5, 2.4], [6.0, 1.9]]  # medians of the first three: 8, 2
    values = [[sign * value for value in curve] for curve in curves]
    search = method("random", trials=5, direction=direction, pruner_startup_trials=3)
    records = run(search, tmp_path / "pruned", reporting(values))
    assert [record.state for record in records] == ["complete", "complete", "complete", "pruned", "complete"]
    assert records[3].evaluations == {0: sign * 7.5, 1: sign * 2.5}
    assert records[3].value == sign * 2.5
    assert best(records, search.config.direction).number == 0
    for other in ({"pruner": "none"}, {"pruner_startup_trials": 4}, {"pruner_warmup_steps": 2}):
        search = method("random", trials=5, direction=direction, **{"pruner_startup_trials": 3, **other})
        records = run(search, tmp_path / str(*other), reporting(values))
        assert {record.state for record in records} == {"complete"}


def test_a_trial_killed_between_its_last_evaluation_and_its_end_is_pruned_without_running(tmp_path: Path):
    values = [[1.0, 0.5], [1.0, 2.0, 2.0]]
    search = method("random", trials=2)

    def killed(overrides: dict[str, Any], number: int, folder: Path, report: Callable[[int, float], None]) -> float:
        try:
            return float(reporting(values)(overrides, number, folder, report))
        except optuna.TrialPruned:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        run(search, tmp_path, killed)
    asked: list[int] = []
    records = run(search, tmp_path, reporting(values, asked))
    assert asked == []
    assert (records[1].state, records[1].evaluations) == ("pruned", {0: 1.0, 1: 2.0})


def test_a_past_decision_stays_when_another_trial_finishes_in_the_meantime(tmp_path: Path):
    search = method("random", trials=1)
    seen: list[str] = []

    def objective(overrides: dict[str, Any], number: int, folder: Path, report: Callable[[int, float], None]) -> float:
        if seen:
            study = optuna.load_study(study_name="search", storage=journal_storage(tmp_path / "journal.log"))
            parts = {"params": study.trials[0].params, "distributions": study.trials[0].distributions}
            study.add_trial(optuna.trial.create_trial(value=0.0, intermediate_values={0: 0.0, 1: 0.0}, **parts))
        report(0, 5.0)
        report(1, 1.0)
        if not seen:
            seen.append("interrupted")
            raise KeyboardInterrupt
        report(2, 0.5)
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        run(search, tmp_path, objective)
    records = run(search, tmp_path, objective)
    assert [(record.state, list(record.evaluations)) for record in records] == [("complete", [0, 1, 2])]


def test_a_replayed_evaluation_of_another_value_is_named_and_the_first_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    search = method("random", trials=1)
    with pytest.raises(KeyboardInterrupt):
        run(search, tmp_path, lambda o, n, f, report: interrupt_after(report(0, 1.0)))
    records = run(search, tmp_path, reporting([[1.5, 2.0]]))
    assert records[0].evaluations == {0: 1.0, 1: 2.0}
    assert "trial 0: step 0 gave 1.0 before the kill and 1.5 now; the first counts" in caplog.text


def interrupt_after(_: None) -> float:
    raise KeyboardInterrupt


def test_failures_count_as_trials_and_carry_their_sentence(tmp_path: Path):
    def objective(overrides: dict[str, Any], number: int, folder: Path, report: Callable[[int, float], None]) -> float:
        if number == 0:
            raise ValueError("train: the loss\nis nan")
        if number == 1:
            report(0, float("nan"))
        if number == 2:
            report(5, 1.0)
            report(4, 1.0)
        return float("inf") if number == 3 else 1.0

    records = run(method("tpe"), tmp_path, objective)
    assert [record.failure for record in records] == [
        "ValueError: train: the loss is nan",
        "ValueError: the evaluation at step 0 must be finite; got nan",
        "ValueError: evaluations must be reported in order of their steps; got 4 after 5",
        "ValueError: validation/loss must be finite; got inf",
        None,
        None,
    ]
    assert [record.state for record in records] == ["failed"] * 4 + ["complete"] * 2
    assert [record.value for record in records] == [None] * 4 + [1.0] * 2


def test_a_search_without_a_complete_trial_is_an_error(tmp_path: Path):
    def objective(*_: Any) -> float:
        raise ValueError("broken")

    with pytest.raises(SearchError, match=r"none of 6 trials was completed; the first said: ValueError: broken$"):
        run(method("random"), tmp_path, objective)


def test_another_search_in_the_folder_is_refused_and_more_trials_go_on(tmp_path: Path):
    few = run(method("gp", trials=4), tmp_path, toy)
    with pytest.raises(SearchError, match="holds a search with another direction, seed; remove it"):
        run(method("gp", direction="maximize"), tmp_path, toy, seed=1)
    with pytest.raises(SearchError, match="holds a search with another acquisition, beta, of, startup_trials"):
        run(method("random"), tmp_path, toy)
    more = run(method("gp"), tmp_path, toy)
    assert more[:4] == few
    assert more == run(method("gp"), tmp_path / "at_once", toy)
    assert run(method("gp", trials=4), tmp_path, toy) == few


def test_ties_go_to_the_first_trial():
    records = [Record(number, "complete", value, {}, {}, None) for number, value in enumerate([2.0, 1.0, 1.0, 2.0])]
    assert best(records, "minimize").number == 1
    assert best(records, "maximize").number == 0
    with pytest.raises(ValueError):
        best([Record(0, "failed", None, {}, {}, "x")], "minimize")


def test_optunas_verbosity_is_given_back(tmp_path: Path):
    before = optuna.logging.get_verbosity()
    run(method("random", trials=1), tmp_path, lambda *_: 1.0)
    assert optuna.logging.get_verbosity() == before
