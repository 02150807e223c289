"""A search of two processes, of which one or the other is killed, ten times in all."""

import json
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlml.search._storage import open_store
from mlml.search._study import Record, begin_study, run_study, take_part
from mlml.search.tpe import TPE

TRIALS = 9
STEPS = (1, 2, 3)
FAILING = 2
OVER = "kills_are_over"
CONFIG = TPE.Config.model_validate(
    {
        "experiment": "toy",
        "objective": "toy",
        "space": {
            "x": {"type": "float", "low": -1.0, "high": 1.0},
            "name": {"type": "categorical", "choices": ["adamw", "sgd"]},
        },
        "trials": TRIALS,
        "startup_trials": 2,
        "pruner_startup_trials": 1,
        "workers": 2,
    }
)


def objective(values: dict[str, Any], number: int, folder: Path, report: Callable[[int, float], None]) -> float:
    """A training in small, which goes on from the checkpoint in its folder; the last one waits for the last kill."""
    folder.mkdir(exist_ok=True)
    (folder.parent / f"runs_{os.getpid()}").touch()
    while number == TRIALS - 1 and not (folder.parent / OVER).exists():
        time.sleep(0.01)
    state = folder / "state.json"
    done = json.loads(state.read_text()) if state.exists() else {"step": 0, "value": 0.0}
    for step in STEPS:
        if step > done["step"]:
            time.sleep(0.03)
            if (number, step) == (FAILING, STEPS[-1]):
                raise RuntimeError("the loss is nan")
            value = done["value"] + values["x"] ** 2 / step
            report(step, value)
            done = {"step": step, "value": value}
            partial = folder / f"partial_{os.getpid()}"
            partial.write_text(json.dumps(done))
            partial.replace(state)
    return float(done["value"])


def fork(work: Callable[[], Any]) -> int:
    """Do the work in a forked process, which ends after it and never goes back into pytest; returns its number."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def coordinate(folder: Path, name: str) -> list[Record]:
    """Run the search to its end, in which kills have a part if somebody is to make them."""
    return run_study(CONFIG, TPE(CONFIG).sampler, folder, objective, 0, name)


def join(folder: Path, name: str) -> list[Record]:
    return take_part(CONFIG, TPE(CONFIG).sampler, folder, objective, 0, name, join=True)


def undisturbed(folder: Path, name: str = "search") -> list[Record]:
    (folder / "trials").mkdir(parents=True)
    (folder / "trials" / OVER).touch()
    return coordinate(folder, name)


def killed_ten_times(folder: Path, name: str, seed: int = 0) -> tuple[list[Record], list[Any]]:
    """Run the search in two processes, kill one of them ten times; return its records and what the storage holds."""
    chance = random.Random(seed)
    # not in this process: those that it forks would share its connections to a database
    beginning = fork(lambda: begin_study(CONFIG, TPE(CONFIG).sampler, folder, 0, name))
    assert os.waitpid(beginning, 0)[1] == 0
    roles = [coordinate, join]
    processes = [fork(lambda role=role: role(folder, name)) for role in roles]
    for _ in range(10):
        while not (
            at_work := [place for place in range(2) if (folder / "trials" / f"runs_{processes[place]}").exists()]
        ):
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.1))
        victim = chance.choice(at_work)
        os.kill(processes[victim], signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(processes[victim], 0)[1]) == -signal.SIGKILL
        processes[victim] = fork(lambda role=roles[victim]: role(folder, name))
    (folder / "trials" / OVER).touch()
    records = coordinate(folder, name)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0]
    store = open_store(folder, name)
    return records, store.storage.get_all_trials(store.storage.get_study_id_from_name(store.name))


def check(records: list[Record], trials: list[Any], expected: list[Record]) -> None:
    """No trial is lost or there twice, and each is what it would have been; those of dead processes are marked."""
    assert records == expected
    assert {record.state for record in records} == {"complete", "pruned", "failed"}
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert all(trial.state.is_finished() for trial in trials)
    ended = [end for trial in trials for end in trial.user_attrs.get("ended", [])]
    assert ended
    assert all({"host", "pid", "started"} <= end.keys() for end in ended)
