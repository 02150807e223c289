"""What a search costs beyond its trials, and what a second worker is worth: `python -m benchmarks.search`.

Overhead: trials that compute next to nothing, over two dimensions drawn at random, through the work of a search stage
with all of its records (a run nested in the stage's and sent to MLflow, steps and log lines at Prefect, each by the
process beside the stage), through the engine alone, and as somebody would write them with Optuna alone. Each keeps its
study in a journal of Optuna's. They take turns; the table holds medians, and of the ratios the least and the most.
What a stage does once, whatever the number of its trials, is left out: starting, the figures, the wait for the servers
at its end, which is told below the table. The journal's writes wait for the disk, so the time is that of the clock.

Workers, with `--workers`: one search of real trainings in fresh copies of this repository's commit, by `mlml repro`,
with one worker and with two; the trials are drawn at random and are the same. By the clock, too.
"""

import argparse
import csv
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from torch import nn

from benchmarks import reproduce
from mlml import catalogue, declaration, points
from mlml.data.prepare import prepare
from mlml.search._study import run_study
from mlml.tracking.run import POINTS, Notes, Run
from mlml.tracking.store import tracking_uri
from mlml.tracking.sync import SyncProcess
from stages import _searching, _servers, _training
from stages._flow_process import FlowProcess
from stages._run import EXPERIMENT, Stage
from stages.prepare import PREPARED

RATE, DECAY = "train.optimizer.learning_rate", "train.optimizer.weight_decay"
SPACE = {RATE: (1e-4, 1e-1), DECAY: (1e-6, 1e-2)}
"""By path, both ends of a logarithmic scale."""

ADDRESS = "search@trivial"
READY_SECONDS = 120.0
HIGH = 0.03
"""Of the rates of the real search."""

BARE, ENGINE, STAGE = "Optuna alone", "the engine, no records", "the stage, all records"

HEAD = """
threads: 1
data: {{digits: {{source: digits}}}}
pretext: {{}}
probe: {{}}
generative: {{}}
"""
"""Of both declarations; the rest of each is below."""

TRIVIAL = """
supervised:
  classifier: {{method: classifier, dataset: digits, encoder: {{network: mlp}}, train: {{steps: 1}}}}
search:
  trivial:
    method: random
    experiment: classifier
    objective: classifier
    dataset: digits
    space:
      train.optimizer.learning_rate: {{type: float, low: 0.0001, high: 0.1, log: true}}
      train.optimizer.weight_decay: {{type: float, low: 0.000001, high: 0.01, log: true}}
    trials: {trials}
"""

REAL = """
supervised:
  classifier:
    method: classifier
    dataset: digits
    encoder: {{network: cnn, width: 16}}
    train: {{steps: 600, batch_size: 128, evaluate_every: 200}}
search:
  one: &search
    method: random
    experiment: classifier
    objective: classifier
    dataset: digits
    space: {{train.optimizer.learning_rate: {{type: float, low: 0.0003, high: {high}, log: true}}}}
    pruner: none
    trials: {trials}
    workers: 1
  two: {{<<: *search, workers: 2}}
"""


def value_of(rate: float, decay: float) -> float:
    """What a trivial trial comes to."""
    return (rate - 0.01) ** 2 + decay


def untrained(experiment: Any, *_: Any) -> tuple[nn.Module, dict[str, float]]:
    """Stand in for a training: `stages._training.train_here`."""
    optimizer = experiment.config.train.optimizer
    return nn.Module(), {"validation/loss": value_of(optimizer.learning_rate, optimizer.weight_decay)}


def bare(folder: Path, trials: int) -> float:
    """Run the trials with Optuna; return the seconds."""
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        return value_of(*(trial.suggest_float(path, *ends, log=True) for path, ends in SPACE.items()))

    start = time.perf_counter()
    study.optimize(objective, n_trials=trials)
    return time.perf_counter() - start


def engine(folder: Path, _: int) -> float:
    """Run the trials of the declared search, and keep no record of a trial but the journal's."""
    search = declaration.read().experiments["trivial"]
    method_class = catalogue.method_class("search", search.method)
    config = method_class.Config.model_validate(search.config.model_dump())
    start = time.perf_counter()
    run_study(config, method_class(config).sampler, folder, lambda values, *_: value_of(*values.values()), 0)
    return time.perf_counter() - start


class _Steps(FlowProcess):
    """The steps of a stage; it knows how long one took that has nothing to do with the number of trials."""

    outputs_seconds = 0.0

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = super().run(name, work)
        if name == "write outputs":
            self.outputs_seconds = time.perf_counter() - start
        return result


class Staged:
    """Runs the trials as the work of a stage, in the project that is the working directory.

    Attributes:
        api_url: of its Prefect server.
        rest_seconds: of each turn, from the last trial's end until MLflow and Prefect had everything.
    """

    def __init__(self, api_url: str) -> None:
        self.api_url = api_url
        self.rest_seconds: list[float] = []

    def __call__(self, folder: Path, _: int) -> float:
        """Run the trials once; return the seconds, those of ending the trials' runs included."""
        began: list[float] = []

        def beginning(*arguments: Any, **named: Any) -> Any:
            began.append(time.perf_counter())
            return run_study(*arguments, **named)

        syncer, flow = SyncProcess(tracking_uri(Path.cwd())), _Steps()
        _training.train_here, kept = untrained, _training.train_here
        _searching.run_study = beginning
        try:
            flow.begin("search", ADDRESS, self.api_url, {})
            with flow:
                run = Run.open(folder, ADDRESS, EXPERIMENT)
                syncer.begin(folder)
                stage = Stage("trivial", ADDRESS, declaration.read(), folder, run, {}, flow)
                wait_until_ready(flow, folder)
                _searching.search(stage)
                for action in stage.at_end:
                    action()
                stage.finish("FINISHED")
                end = time.perf_counter()
        finally:
            _training.train_here, _searching.run_study = kept, run_study
            all_sent = syncer.close()
            flow.close()
        if not all_sent:
            raise SystemExit("MLflow did not get everything")
        self.rest_seconds.append(time.perf_counter() - end)
        return end - began[0] - flow.outputs_seconds


def wait_until_ready(flow: FlowProcess, folder: Path) -> None:
    """Wait until the processes beside the stage have imported what they need, and have begun its runs."""
    deadline = time.monotonic() + READY_SECONDS
    if flow.flow_run_id is None:
        raise SystemExit("Prefect has no flow run of the stage")
    while Notes.read(folder) is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"MLflow has no run of the stage after {READY_SECONDS:.0f} s")
        time.sleep(0.05)


@contextmanager
def project(trials: int) -> Iterator[Path]:
    """Work in a temporary folder that holds a declaration and its data; its servers are stopped at the end."""
    folder, before = Path(tempfile.mkdtemp(prefix="mlml-benchmark-")), Path.cwd()
    try:
        os.chdir(folder)
        Path("params.yaml").write_text((HEAD + TRIVIAL).format(trials=trials))
        declared = declaration.read().data["digits"]
        source = catalogue.method_class("data/sources", declared.source).Config.model_validate({})
        prepare(declared.source, source, "digits", declared.entry.validation_fraction, None, PREPARED / "digits")
        yield folder
    finally:
        _servers.stop(folder)
        os.chdir(before)
        shutil.rmtree(folder)


def overhead(repeats: int, trials: int) -> None:
    """Print what a trivial trial takes, and how many times as long as with Optuna alone."""
    os.environ.pop(_servers.STUDIES, None)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with project(trials) as root:
        _servers.apply_settings(root)
        logging.basicConfig(filename=root / "log")  # two lines for each trial, as to a terminal
        api_url = _servers.ensure_prefect(root)
        if api_url is None:
            raise SystemExit("the Prefect server could not be started")
        staged = Staged(api_url)
        contestants: dict[str, Callable[[Path, int], float]] = {BARE: bare, ENGINE: engine, STAGE: staged}
        found: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(repeats + 1):
            for name, work in contestants.items():
                folder = root / f"turn_{turn}" / name.replace(" ", "_")
                folder.mkdir(parents=True)
                found[name].append(work(folder, trials) / trials * 1000)
    print(f"\n{f'a trial, of {trials}':<28}{'ms':>8}{'ratio':>8}{'least':>8}{'most':>8}")
    base = found[BARE][1:]  # in the first turn modules are imported
    for name, turns in found.items():
        ratios = [own / other for own, other in zip(turns[1:], base, strict=True)]
        row = statistics.median(turns[1:]), statistics.median(ratios), min(ratios), max(ratios)
        print(f"  {name:<26}" + "".join(f"{value:>8.2f}" for value in row))
    rest = statistics.median(staged.rest_seconds[1:])
    print(f"until the servers have everything, after the last trial: {rest:.1f} s")


def workers(repeats: int, trials: int) -> None:
    """Print how long a search takes with two workers, against one."""
    commands: dict[str, list[float]] = {"one": [], "two": []}
    stages: dict[str, list[float]] = {"one": [], "two": []}
    with reproduce.fresh_copy() as folder:
        (folder / "params.yaml").write_text((HEAD + REAL).format(trials=trials, high=HIGH))
        reproduce.run(folder, "mlml", "repro", "classifier")  # what the searches stand on is no part of them
        for turn in range(repeats):
            # another search in every turn: DVC would bring back what it has the result of
            (folder / "params.yaml").write_text((HEAD + REAL).format(trials=trials, high=HIGH + turn * 1e-5))
            for name in ("one", "two") if turn % 2 == 0 else ("two", "one"):
                commands[name].append(reproduce.run(folder, "mlml", "repro", f"search@{name}"))
                stages[name].append(stage_seconds(folder / ".mlml" / "runs" / f"search@{name}"))
            tried = [rows(folder / "reports" / "search" / name / "trials.csv") for name in ("one", "two")]
            if len(tried[0]) != trials or tried[0] != tried[1]:
                raise SystemExit(f"turn {turn}: not the same {trials} trials: {tried[0]} and {tried[1]}")
    print(f"\n{f'a search of {trials} trials: seconds':<36}{'one':>8}{'two':>8}{'ratio':>8}{'least':>8}{'most':>8}")
    for title, turns in (("the stage, its start and end included", stages), ("mlml repro", commands)):
        ratios = [two / one for one, two in zip(turns["one"], turns["two"], strict=True)]
        row = statistics.median(turns["one"]), statistics.median(turns["two"]), statistics.median(ratios)
        print(f"  {title:<34}" + "".join(f"{value:>8.2f}" for value in (*row, min(ratios), max(ratios))))


def rows(path: Path) -> list[dict[str, str]]:
    """Return what a search tried, and what came of it."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def stage_seconds(runs: Path) -> float:
    """Return how long the newest run of a stage took, by its own record."""
    newest = max(runs.glob(f"*/{POINTS}"), key=lambda path: path.stat().st_mtime)
    return next(value for name, _, value in reversed(points.read(newest)) if name == "system/seconds")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", action="store_true", help="one worker against two, instead of the overhead")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--trials", type=int, help="200 trivial ones, or 16 real ones")
    options = parser.parse_args()
    if options.workers:
        workers(options.repeats, options.trials or 16)
    else:
        overhead(options.repeats, options.trials or 200)
    print(f"load of the last five minutes: {os.getloadavg()[1]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
