"""A run of stages from its beginning to its end: one at a time in a workspace, and a Prefect flow."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pipelines.graph import Graph
from pipelines.live import shown
from pipelines.lock_file import drop_dead_locks, only_coordinator
from pipelines.reproduce import Reproduction, Result
from pipelines.slots import Slots, default_jobs, gpus, thread_limits
from stages import _servers
from stages._steps import Steps, run_flow

Within = Callable[[Callable[[Steps], None], str], None]
"""Runs a body, given its steps, inside a Prefect flow; the second argument is the API of Prefect."""


@dataclass(frozen=True)
class Options:
    """What a run is asked to do; `jobs` None means as many as the machine takes."""

    targets: Sequence[str] = ()
    jobs: int | None = None
    force: bool = False
    keep_going: bool = False

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
    state = folder / ".mlml" / "reproduce"
    devices = gpus()
    slots = Slots(options.jobs or default_jobs(threads, len(devices)), devices)
    with _ended_by_sigterm(), only_coordinator(state), Graph() as graph:
        drop_dead_locks(folder)
        run = Reproduction(graph, folder, state, slots, options.targets, options.force, options.keep_going)
        said = run.lock_file.repair()
        if said:
            print(said, file=sys.stderr, flush=True)
            graph.refresh()
        if run.survey():
            _run(run, folder, threads, options, within)
        return run.result


def _run(run: Reproduction, folder: Path, threads: int, options: Options, within: Within | None) -> None:
    """Run what the survey left, with Prefect and the stages' parent process beside it."""
    os.environ.update(thread_limits(threads))
    api = _servers.ensure_prefect(folder)
    environment: Mapping[str, str] = {"PREFECT_API_URL": api} if api else {}
    shown_parameters = {
        "targets": list(options.targets),
        "jobs": run.slots.jobs,
        "force": options.force,
        "keep_going": options.keep_going,
    }
    with shown(run.result, {}) as on_change:

        def body(steps: Steps) -> None:
            run.run(steps, environment, on_change)

        if within is not None:
            within(body, api or "")
        else:
            run_flow("reproduce", " ".join(options.targets) or "everything", api, body, shown_parameters)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Make SIGTERM an interrupt, so that the stages are ended first; Prefect does the same while its flow runs."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: whoever runs it there handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
