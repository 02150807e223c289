"""Several processes in one search: it is a function of its seed, and survives the death of any of them."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import search_kills
from search_kills import fork
from test_search_study import in_fork, method, run, toy

from mlml.search._past import horizon
from mlml.search._storage import FileLock, journal_storage
from mlml.search._study import MAX_ENDS, SearchError, begin_study, take_part
from mlml.train_state import Pause

TRIALS = 9


def slow(seconds: Callable[[int], float]) -> Any:
    """The toy, each evaluation of trial n after `seconds(n)`; the first trial goes on when a second process has one."""

    def objective(overrides: dict[str, Any], number: int, folder: Path, report: Callable[[int, float], None]) -> float:
        (folder.parent / f"began_{os.getpid()}").touch()
        while number == 0 and len(list(folder.parent.glob("began_*"))) < 2:
            time.sleep(0.01)

        def waiting(step: int, value: float) -> None:
            time.sleep(seconds(number))
            report(step, value)

        value = toy(overrides, number, folder, waiting)
        with (folder.parent / "ends.log").open("a") as log:
            log.write(f"{number} {os.getpid()}\n")
        return value

    return objective


def join(search: Any, folder: Path, objective: Any) -> int:
    return fork(lambda: take_part(search.config, search.sampler, folder, objective, 0, join=True))


def parallel(name: str, workers: int = 2, **values: Any) -> Any:
    return method(name, trials=TRIALS, workers=workers, **values)


SLOWNESS: tuple[Callable[[int], float], ...] = (lambda n: 0.02 * (n % 2), lambda n: 0.02 * (n % 3 == 0))
"""By number of a trial, seconds that each of its evaluations takes."""

JOIN = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[5:]
import test_search_parallel as here
search, folder, seconds = here.parallel(sys.argv[1]), Path(sys.argv[2]), here.SLOWNESS[int(sys.argv[3])]
(folder / f"joins_{sys.argv[4]}").touch()
here.take_part(search.config, search.sampler, folder, here.slow(seconds), 0, join=True)
"""


@pytest.mark.parametrize("name", ["random", "tpe", "gp", "quasi_random"])
def test_who_is_faster_decides_nothing(name: str, tmp_path: Path):
    search = parallel(name)
    expected = run(search, tmp_path / "alone", toy)
    assert {record.state for record in expected} == {"complete", "pruned", "failed"}
    here = Path(__file__).parent
    for turn, seconds in enumerate(SLOWNESS):
        folder = tmp_path / str(turn)
        begin_study(search.config, search.sampler, folder, 0)
        # not by a fork: what computes a Gaussian process has threads, which a fork has not
        words = [sys.executable, "-c", JOIN, name, str(folder), str(turn)]
        others = [subprocess.Popen([*words, str(number), str(here), str(here.parent)]) for number in range(2)]
        while len(list(folder.glob("joins_*"))) < 2:
            assert not any(other.poll() for other in others)  # None, or 0 of one that found the search over
            time.sleep(0.01)
        assert run(search, folder, slow(seconds)) == expected
        assert [other.wait() for other in others] == [0, 0]
        took_part = {line.split()[1] for line in (folder / "trials" / "ends.log").read_text().splitlines()}
        assert len(took_part) > 1


def test_more_workers_know_less_of_the_past(tmp_path: Path):
    one, two = (run(parallel("tpe", workers), tmp_path / str(workers), toy) for workers in (1, 2))
    same = [a.parameters == b.parameters for a, b in zip(one, two, strict=True)]
    assert all(same[:2])  # drawn at random
    assert not all(same)


@pytest.mark.parametrize(("workers", "known"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 0, 0, 0, 1, 2]), (3, [0] * 6)])
def test_a_trial_knows_all_but_two_turns_of_the_workers(workers: int, known: list[int]):
    assert [horizon(number, workers) for number in range(6)] == known


def test_a_trial_waits_for_what_it_is_to_know(tmp_path: Path):
    """With two workers trial 4 is drawn from trial 0; as long as that runs, 1 to 3 are all that can be done."""
    search = parallel("random", pruner="none")
    begin_study(search.config, search.sampler, tmp_path, 0)

    def hold(overrides: dict[str, Any], number: int, folder: Path, report: Any) -> float:
        (tmp_path / "held").touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        return toy(overrides, number, folder, report)

    holder = join(search, tmp_path, lambda o, n, f, r: hold(o, n, f, r) if n == 0 else toy(o, n, f, r))
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    other = join(search, tmp_path, toy)
    storage = journal_storage(tmp_path / "journal.log")

    def states() -> list[str]:
        [study] = storage.get_all_studies()
        return [trial.state.name for trial in storage.get_all_trials(study._study_id)]

    while states().count("RUNNING") != 1 or len(states()) < 4:
        time.sleep(0.01)
    time.sleep(0.5)  # time enough for a fifth trial, were it allowed
    assert len(states()) == 4
    (tmp_path / "go").touch()
    assert [os.waitpid(child, 0)[1] for child in (holder, other)] == [0, 0]
    assert len(states()) == TRIALS


def finished(folder: Path) -> list[Any]:
    storage = journal_storage(folder / "journal.log")
    [study] = storage.get_all_studies()
    return storage.get_all_trials(study._study_id)


def test_ten_kills_of_workers_and_coordinator_lose_no_trial_and_count_none_twice(tmp_path: Path):
    expected = search_kills.undisturbed(tmp_path / "whole")
    records, trials = search_kills.killed_ten_times(tmp_path / "killed", "search")
    search_kills.check(records, trials, expected)


def test_a_trial_that_ends_every_process_fails_in_the_end(tmp_path: Path):
    search = method("random", trials=2)

    def deadly(overrides: dict[str, Any], number: int, folder: Path, report: Callable[[int, float], None]) -> float:
        if number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0

    for _ in range(MAX_ENDS):
        assert in_fork(lambda: run(search, tmp_path, deadly)) == -signal.SIGKILL
    records = run(search, tmp_path, deadly)
    assert [record.state for record in records] == ["failed", "complete"]
    assert records[0].failure is not None
    assert records[0].failure.startswith(f"{MAX_ENDS} processes ended in it without an evaluation, the last process ")


def test_evaluations_in_between_let_a_trial_be_interrupted_at_any_number_of_times(tmp_path: Path):
    search = method("random", trials=1)
    steps = 2 * MAX_ENDS

    def step_by_step(o: dict[str, Any], n: int, folder: Path, report: Callable[[int, float], None]) -> float:
        folder.mkdir(exist_ok=True)
        done = folder / "done"
        step = int(done.read_text()) if done.exists() else 0
        if step == steps:
            return 1.0
        report(step, 1.0)
        done.write_text(str(step + 1))
        raise KeyboardInterrupt

    for _ in range(steps):
        with pytest.raises(KeyboardInterrupt):
            run(search, tmp_path, step_by_step)
    assert [record.state for record in run(search, tmp_path, step_by_step)] == ["complete"]


def test_nobody_joins_a_search_that_is_not_under_way(tmp_path: Path):
    search = parallel("random")
    with pytest.raises(SearchError, match="no search is under way with this code, data and numbers; begin it by"):
        take_part(search.config, search.sampler, tmp_path / "none", toy, 0, join=True)


def test_time_is_a_budget_and_what_runs_may_end(tmp_path: Path):
    search = method("random", trials=None, seconds=0.3, pruner="none")
    assert search.config.max_trials is None
    records = run(search, tmp_path, lambda o, n, f, r: time.sleep(0.12) or 1.0)
    assert len(records) == 3  # the third begins after 0.24 seconds, and ends
    assert run(search, tmp_path, None) == records
    both = method("random", trials=2, seconds=1000.0, pruner="none")
    assert len(run(both, tmp_path / "both", toy)) == 2


def test_without_a_budget_there_are_twenty_trials():
    assert method("random", trials=None).config.max_trials == 20


def tiers(values: list[float]) -> Any:
    """An objective with evaluations at steps 1 to 9 that has a checkpoint, and goes on from that of another trial.

    The value is that of the trial that began, by its number in their order, whatever number it goes on under.
    """
    begun: dict[int, int] = {}

    def objective(overrides: dict[str, Any], number: int, folder: Path, report: Any) -> float:
        folder.mkdir(exist_ok=True)
        root = begun[number] = begun[report.continues] if report.continues is not None else len(begun_roots(begun))
        start = 0
        if report.continues is not None:
            start = int((folder.parent / f"{report.continues:04d}" / "step").read_text())
        for step in range(start + 1, 10):
            (folder / "step").write_text(str(step))
            with (folder / "steps.log").open("a") as log:
                log.write(f"{step} ")
            try:
                report(step, values[root] / step)
            except Pause:
                if step < 9:  # as the loop does, which has nothing left to do then
                    raise
        return values[root] / 9

    return objective


def begun_roots(begun: dict[int, int]) -> set[int]:
    return set(begun.values())


def asha(**values: Any) -> Any:
    return method("random", pruner="asha", pruner_min_steps=1, pruner_reduction=3, **values)


def test_the_best_third_goes_on_from_its_own_checkpoint(tmp_path: Path):
    """Li et al. 2020, Algorithm 2, by hand: rungs at steps 1, 3 and 9."""
    values = [5.0, 3.0, 9.0, 1.0, 7.0, 8.0, 2.0, 4.0, 6.0]
    records = run(asha(trials=13), tmp_path, tiers(values))
    continues = [record.continues for record in records]
    # of three in rung 0 one may go on: the best, 1; then 4 is the best of four; of seven two may: 4, and now 8; of the
    # three that came to rung 1 the best is 5, which goes on to its end
    assert continues == [None, None, None, 1, None, 4, None, None, None, 8, 5, None, None]
    assert [record.state for record in records] == ["pruned"] * 10 + ["complete"] + ["pruned"] * 2
    assert records[3].evaluations == {1: 3.0, 2: 1.5, 3: 1.0}
    assert (tmp_path / "trials" / "0003" / "steps.log").read_text() == "2 3 "
    assert records[10].evaluations == {step: 1.0 / step for step in range(1, 10)}
    assert (tmp_path / "trials" / "0010" / "steps.log").read_text() == "4 5 6 7 8 9 "
    assert records[10].parameters == records[5].parameters == records[4].parameters


def test_the_last_trial_takes_the_best_to_the_end_where_nobody_was(tmp_path: Path):
    records = run(asha(trials=6), tmp_path, tiers([5.0, 3.0, 9.0, 1.0, 7.0]))
    assert [record.continues for record in records] == [None, None, None, 1, None, 3]
    assert [record.state for record in records] == ["pruned"] * 5 + ["complete"]
    assert (tmp_path / "trials" / "0005" / "steps.log").read_text() == "4 5 6 7 8 9 "


def test_a_tie_of_the_maximum_goes_to_the_first(tmp_path: Path):
    records = run(asha(trials=5, direction="maximize"), tmp_path, tiers([1.0, 2.0, 2.0, 0.0]))
    assert [record.continues for record in records] == [None, None, None, 1, 3]


def test_what_the_sampler_knows_is_how_far_each_beginning_came(tmp_path: Path):
    """A trial that goes on is no second trial of the same values."""
    from mlml.search._rungs import without_continued

    run(asha(trials=13), tmp_path, tiers([5.0, 3.0, 9.0, 1.0, 7.0, 8.0, 2.0, 4.0, 6.0]))
    known = without_continued(finished(tmp_path))
    assert [trial.number for trial in known] == [0, 3, 2, 10, 6, 7, 9, 11, 12]


def test_promotions_survive_kills(tmp_path: Path):
    search = asha(trials=8)

    def stateless(overrides: dict[str, Any], number: int, folder: Path, report: Any) -> float:
        for step in range(1, 10):
            time.sleep(0.005)
            try:
                report(step, overrides["rate"] / step)
            except Pause:
                if step < 9:
                    raise
        return overrides["rate"] / 9

    expected = run(search, tmp_path / "whole", stateless)
    assert any(record.continues is not None for record in expected)
    chance = random.Random(1)
    for _ in range(5):
        child = fork(lambda: run(search, tmp_path / "parts", stateless))
        time.sleep(chance.uniform(0.05, 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert run(search, tmp_path / "parts", stateless) == expected


def test_several_objectives_are_kept_by_name(tmp_path: Path):
    further = {"cost/parameters": "minimize", "validation/accuracy": "maximize"}
    for name in ("random", "tpe", "gp", "quasi_random"):
        search = method(name, pruner="none", further_objectives=further)
        records = run(search, tmp_path / name, lambda o, n, f, r: (o["rate"], o["width"], n / 10))
        assert [record.value for record in records] == [record.parameters["rate"] for record in records]
        for record in records:
            width = record.parameters["width"]
            assert record.further == {"cost/parameters": width, "validation/accuracy": record.number / 10}
        assert run(search, tmp_path / name, None) == records


@pytest.mark.parametrize("index", [0, 1, 2])
def test_every_objective_must_be_finite(index: int, tmp_path: Path):
    search = method(
        "random", trials=2, pruner="none", further_objectives={"validation/a": "maximize", "validation/b": "minimize"}
    )
    values = [1.0, 2.0, 3.0]
    values[index] = float("nan")
    records = run(search, tmp_path, lambda o, n, f, r: values if n == 0 else (1.0, 2.0, 3.0))
    assert [record.state for record in records] == ["failed", "complete"]
    metric = ["validation/loss", "validation/a", "validation/b"][index]
    assert records[0].failure == f"ValueError: {metric} must be finite; got nan"


def test_a_scratch_study_is_what_adding_the_trials_makes():
    from mlml.search._past import scratch

    trials = [
        optuna.trial.create_trial(
            value=float(n), params={"x": n / 10}, distributions={"x": optuna.distributions.FloatDistribution(0, 1)}
        )
        for n in (3, 1, 2)
    ]
    plain = optuna.create_study(direction="maximize")
    plain.add_trials(trials)
    ours = scratch(trials, ["maximize"])
    assert [(t.number, t.params, t.value) for t in ours.trials] == [(t.number, t.params, t.value) for t in plain.trials]
    assert ours.best_trial.number == plain.best_trial.number == 0
    assert ours.ask().number == plain.ask().number == 3
    assert {trial.number for trial in trials} == {-1}  # those that were given are left alone


def test_a_trial_that_ends_while_another_looks_for_one_is_not_taken_over(tmp_path: Path, monkeypatch: Any):
    search = parallel("random", pruner="none")
    begin_study(search.config, search.sampler, tmp_path, 0)
    storage, taking = journal_storage(tmp_path / "journal.log"), FileLock.acquire
    [study] = storage.get_all_studies()
    storage.create_new_trial(study._study_id)  # being run by another process

    def acquire(lock: FileLock, wait: bool = True) -> bool:
        if not wait and finished(tmp_path)[0].state.name == "RUNNING":  # it ends between the look and the lock
            storage.set_trial_state_values(0, optuna.trial.TrialState.COMPLETE, [1.0])
        return taking(lock, wait)

    monkeypatch.setattr(FileLock, "acquire", acquire)
    records = take_part(search.config, search.sampler, tmp_path, toy, 0, join=True)
    assert [record.number for record in records] == list(range(TRIALS))
    assert records[0].value == 1.0


def test_a_power_cut_that_loses_the_beginning_of_a_trial_lets_it_begin_again_the_same(tmp_path: Path):
    search = method("random", trials=3, pruner="none")
    whole = run(search, tmp_path / "whole", toy)
    journal = tmp_path / "cut" / "journal.log"

    def cut(overrides: dict[str, Any], number: int, folder: Path, report: Any) -> float:
        if number == 1:
            lines = journal.read_bytes().splitlines(keepends=True)
            journal.write_bytes(b"".join(lines[:-1]))
            raise KeyboardInterrupt
        return toy(overrides, number, folder, report)

    with pytest.raises(KeyboardInterrupt):
        run(search, tmp_path / "cut", cut)
    assert len(finished(tmp_path / "cut")) == 1
    assert run(search, tmp_path / "cut", toy) == whole
