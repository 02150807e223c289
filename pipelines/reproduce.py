"""The stages that need it, side by side: each a Prefect task over `dvc repro --single-item`, once its inputs are there.

What needs to run, in which order, and what a stage's result is, is DVC's to say; this decides only when a stage starts.
The result, dvc.lock and outputs, is that of a serial `dvc repro`.
"""

import contextvars
import logging
import queue
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from mlml.status import VARIABLE as STATUS_VARIABLE
from pipelines.dvc_process import Ended, stage_process
from pipelines.graph import Graph
from pipelines.lock_file import LockFile
from pipelines.slots import Slots
from stages._steps import Steps

logger = logging.getLogger(__name__)
output = logging.getLogger("pipelines.output")
"""Every line that a stage prints."""

State = Literal["waiting", "running", "unchanged", "restored", "ran", "failed", "skipped", "not started"]
"""`restored`: from DVC's run cache; `skipped`: what it depends on failed; `not started`: the run ended before it."""

GOOD = ("unchanged", "restored", "ran")


@dataclass
class StageRun:
    """One stage in a run.

    Attributes:
        cause: of being skipped: the stage that failed.
        began, seconds: monotonic time of its start, and how long it took.
        log, status: files with what it printed, and what it does now (`mlml.status`).
    """

    name: str
    log: Path
    status: Path
    state: State = "waiting"
    cause: str = ""
    code: int = 0
    began: float = 0.0
    seconds: float = 0.0


@dataclass
class Result:
    """Outcome of a run, by stage in serial order."""

    stages: dict[str, StageRun] = field(default_factory=dict)

    def named(self, *states: State) -> list[str]:
        """Stages that are in one of some states."""
        return [name for name, stage in self.stages.items() if stage.state in states]

    @property
    def ok(self) -> bool:
        """Whether every stage is up to date."""
        return all(stage.state in GOOD for stage in self.stages.values())


class Runner(Protocol):
    """Something that runs one stage: a process here, or a worker elsewhere."""

    def run(self, say: Callable[[str], None]) -> Ended:
        """Run to the end, and hand over each line that the stage prints; called in a thread of its own."""

    def end(self) -> None:
        """End the stage, and wait until it has ended; called from another thread."""


Launch = Callable[[str, Mapping[str, str], bool, Path], Runner]
"""Makes what runs a stage: (stage, environment over this process's, force, log)."""


class Reproduction:
    """One run over the stages of a graph.

    `survey` says what there is to do; `run` does it. Both are called from one thread.

    Args:
        graph: of the workspace.
        targets: as `Graph.select`.
        force: run every stage, changed or not.
        keep_going: after a failure, go on with what does not depend on the failed stage.
        slots: what may run at once.
        state: folder for logs and for what must outlive a kill.
        launch: makes what runs a stage; a process here by default.
    """

    def __init__(
        self,
        graph: Graph,
        folder: Path,
        state: Path,
        slots: Slots,
        targets: Sequence[str] = (),
        force: bool = False,
        keep_going: bool = False,
        launch: Launch | None = None,
    ) -> None:
        self.graph, self.slots, self.force, self.keep_going = graph, slots, force, keep_going
        self.launch: Launch = launch or partial(stage_process, folder)
        self.lock_file = LockFile(folder, state)
        names = graph.select(targets)
        self.result = Result(
            {name: StageRun(name, state / "logs" / f"{name}.log", state / "status" / name) for name in names}
        )
        self._changed: set[str] = set()  # as of the survey, or because it ran
        self._processes: dict[str, Runner] = {}
        self._ended: queue.Queue[tuple[str, Ended | BaseException]] = queue.Queue()

    def survey(self) -> bool:
        """Settle every stage that is up to date with all that it depends on; return whether anything is left to do."""
        for name in self.result.stages:
            if self.force or self.graph.changed(name):
                self._changed.add(name)
            self._settle_if_unchanged(name)
        return bool(self.result.named("waiting")) or self.lock_file.unfinished

    def run(self, steps: Steps, environment: Mapping[str, str], on_change: Callable[[], None] = lambda: None) -> None:
        """Run what is left.

        Args:
            steps: through which each stage becomes a Prefect task.
            environment: of every stage, over that of this process.
            on_change: called after each change of a state.

        Raises:
            BaseException: an interrupt, once every stage has been ended.
        """
        self.lock_file.begin()
        pool = ThreadPoolExecutor(max_workers=self.slots.jobs, thread_name_prefix="stage")
        try:
            while True:
                for name in self._startable():
                    self._start(name, pool, steps, environment)
                on_change()
                if not self._processes:
                    break
                self._settle(*self._next())
        except BaseException:
            self._end_all()
            raise
        finally:
            pool.shutdown()
            for name in self.result.named("waiting"):
                self._give_up(name)
            on_change()
        self.lock_file.finish([*self.result.stages, *self.graph.nodes], self.graph.repo.lock, self.result.ok)

    def _startable(self) -> Iterable[str]:
        """Yield stages whose inputs are there and that have something to do; settle those that have not."""
        if self.result.named("failed") and not self.keep_going:
            return
        for name in self.result.named("waiting"):
            upstream = [self.result.stages[other].state for other in self._upstream(name)]
            if any(state in ("failed", "skipped") for state in upstream):
                self._skip(name)
            elif all(state in GOOD for state in upstream):
                if name not in self._changed and self.graph.changed(name):
                    self._changed.add(name)
                if name in self._changed:
                    yield name
                else:
                    self.result.stages[name].state = "unchanged"

    def _start(self, name: str, pool: ThreadPoolExecutor, steps: Steps, environment: Mapping[str, str]) -> None:
        """Start a stage, if a slot is free."""
        slot = self.slots.take(name, self.graph.nodes[name].takes, self.graph.nodes[name].workers)
        if slot is None:
            return
        stage = self.result.stages[name]
        stage.status.parent.mkdir(parents=True, exist_ok=True)
        stage.status.unlink(missing_ok=True)
        own = {**environment, **slot, STATUS_VARIABLE: str(stage.status.resolve())}
        process = self._processes[name] = self.launch(name, own, self.force, stage.log)
        stage.state, stage.began = "running", time.monotonic()
        logger.info("%s: starts", name)

        def work() -> Ended:
            ended = process.run(lambda line: output.info("%s | %s", name, line))
            if ended.outcome == "failed":
                raise StageFailed(name, ended)
            return ended

        def in_thread() -> None:
            try:
                self._ended.put((name, steps.run(name, work)))
            except BaseException as error:
                self._ended.put((name, error))

        pool.submit(contextvars.copy_context().run, in_thread)

    def _next(self) -> tuple[str, Ended | BaseException]:
        """Wait for the end of a stage; in short waits, for a signal is handled between them."""
        while True:
            try:
                return self._ended.get(timeout=0.2)
            except queue.Empty:
                continue

    def _settle(self, name: str, ended: Ended | BaseException) -> None:
        stage = self.result.stages[name]
        del self._processes[name]
        self.slots.release(name)
        stage.seconds = time.monotonic() - stage.began
        if isinstance(ended, StageFailed):
            ended = ended.ended
        if isinstance(ended, BaseException):
            stage.state = "failed"
            raise ended
        stage.state, stage.code = ended.outcome, ended.code
        self.lock_file.keep()
        if stage.state == "failed":
            logger.error("%s: failed with exit code %d; its log: %s", name, stage.code, stage.log)
        else:
            logger.info("%s: %s, %.1f s", name, stage.state, stage.seconds)

    def _end_all(self) -> None:
        """End every stage, and wait until it has ended."""
        processes = dict(self._processes)
        with ThreadPoolExecutor(max_workers=max(1, len(processes))) as pool:
            list(pool.map(lambda process: process.end(), processes.values()))
        for name in processes:
            self.result.stages[name].state = "failed"

    def _settle_if_unchanged(self, name: str) -> None:
        upstream = (self.result.stages[other].state for other in self._upstream(name))
        if name not in self._changed and all(state == "unchanged" for state in upstream):
            self.result.stages[name].state = "unchanged"

    def _skip(self, name: str) -> None:
        stage = self.result.stages[name]
        broken = next(
            other for other in self._upstream(name) if self.result.stages[other].state in ("failed", "skipped")
        )
        stage.state, stage.cause = "skipped", self.result.stages[broken].cause or broken

    def _give_up(self, name: str) -> None:
        """Say of a stage that has not started why it will not."""
        if any(self.result.stages[other].state in ("failed", "skipped") for other in self._upstream(name)):
            self._skip(name)
        else:
            self.result.stages[name].state = "not started"

    def _upstream(self, name: str) -> list[str]:
        return [other for other in self.graph.nodes[name].upstream if other in self.result.stages]


class StageFailed(RuntimeError):
    """A stage that failed; its Prefect task shows this."""

    def __init__(self, name: str, ended: Ended) -> None:
        super().__init__(f"{name} failed with exit code {ended.code}")
        self.ended = ended
