"""A run of stages from its beginning to its end: one at a time in a workspace, and a Prefect flow."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pipelines import isolated
from pipelines.durations import durations
from pipelines.graph import Graph
from pipelines.live import shown
from pipelines.lock_file import drop_dead_locks, only_coordinator
from pipelines.remote import JOBS, Pool
from pipelines.reproduce import Reproduction, Result
from pipelines.slots import Slots, default_jobs, gpus, thread_limits
from stages import _servers
from stages._steps import Steps, run_flow
from stages._warm_start import warm

STATE = Path(".mlml") / "reproduce"
"""Folder for logs, and for what must outlive a kill."""

Within = Callable[[Callable[[Steps], None], str], None]
"""Runs a body, given its steps, inside a Prefect flow; the second argument is the API of Prefect."""


@dataclass(frozen=True)
class Options:
    """What a run is asked to do; `jobs` None means as many as the machine takes, or a pool is given at once."""

    targets: Sequence[str] = ()
    jobs: int | None = None
    force: bool = False
    keep_going: bool = False
    pool: str | None = None

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"jobs must be at least 1; got {self.jobs}")


def reproduce(folder: Path, threads: int, options: Options, within: Within | None = None) -> Result:
    """Bring every target up to date, and what it depends on.

    Args:
        folder: the workspace, and the working directory.
        threads: of each stage, as the declaration says.
        options: what is asked for.
        within: None makes a Prefect flow of the run, if there is anything to do.

    Raises:
        TargetError: a target names no stage.
        WorkspaceError: dvc.lock is damaged beyond repair.
    """
    state = folder / STATE
    slots = _slots(threads, options)
    with _ended_by_signals(), only_coordinator(state), Graph() as graph:
        drop_dead_locks(folder)
        pool = Pool(options.pool, graph, folder, state) if options.pool is not None else None
        launch = pool.launch if pool else None
        run = Reproduction(graph, folder, state, slots, options.targets, options.force, options.keep_going, launch)
        said = run.lock_file.repair()
        if said:
            print(said, file=sys.stderr, flush=True)
            graph.refresh()
        if run.survey():
            if pool:
                pool.check(run.result.named("waiting"), _servers.ensure_prefect(folder))
            with shown(run.result, durations(folder, run.result.stages)) as on_change:
                parameters = {"targets": list(options.targets), "jobs": slots.jobs, "force": options.force}
                _in_flow(
                    "reproduce",
                    " ".join(options.targets) or "everything",
                    folder,
                    threads,
                    parameters,
                    lambda steps, environment: run.run(steps, environment, on_change),
                    within,
                )
        return run.result


def run_isolated(
    folder: Path,
    threads: int,
    options: Options,
    values: Mapping[str, Sequence[Any]],
    prefix: str | None = None,
    within: Within | None = None,
) -> list[tuple[isolated.Isolated, int]]:
    """Run every combination of values as an isolated experiment; the workspace stays as it is.

    Args:
        folder: the workspace, and the working directory.
        threads: of each stage, as the declaration says.
        options: `jobs` is how many experiments run at once.
        values: dotted path into params.yaml -> the values to try.
        prefix: of the experiments' names.
        within: as for `reproduce`.

    Returns:
        Every experiment with its exit code.

    Raises:
        DeclarationError: the faults of the declarations that the values make; nothing has run.
    """
    slots = _slots(threads, options)
    codes: dict[str, int] = {}
    with _ended_by_signals(), only_coordinator(folder / STATE):
        drop_dead_locks(folder)
        with Graph() as graph:
            targets = graph.resolve(options.targets)
        experiments = isolated.declare(folder, values, prefix)

        def work(steps: Steps, environment: Mapping[str, str]) -> None:
            codes.update(isolated.run(folder, experiments, targets, slots.jobs, environment, steps.run))

        parameters = {"values": {path: list(given) for path, given in values.items()}, "targets": targets}
        _in_flow("sweep", ", ".join(values), folder, threads, parameters, work, within)
    return [(one, codes[one.name]) for one in experiments]


def _slots(threads: int, options: Options) -> Slots:
    if options.pool is not None:
        return Slots(options.jobs or JOBS)  # a worker knows its own GPUs
    devices = gpus()
    return Slots(options.jobs or default_jobs(threads, len(devices)), devices)


def _in_flow(
    name: str,
    run_name: str,
    folder: Path,
    threads: int,
    parameters: Mapping[str, Any],
    work: Callable[[Steps, Mapping[str, str]], None],
    within: Within | None,
) -> None:
    """Call `work` with the steps of a Prefect flow, and with the environment for its stages."""
    os.environ.update(thread_limits(threads))
    api = _servers.ensure_prefect(folder)
    environment: Mapping[str, str] = {"PREFECT_API_URL": api} if api else {}
    with warm(folder, environment):
        if within is not None:
            within(lambda steps: work(steps, environment), api or "")
        else:
            run_flow(name, run_name, api, lambda steps: work(steps, environment), parameters)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Make SIGTERM and a closed terminal an interrupt, so that the stages are ended first; Ctrl-C is one anyway."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # else whoever runs there handles signals
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # not under nohup, say, or Prefect
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
