"""A Prefect task for each stage that runs inside an isolated experiment.

The `dvc exp run` of an experiment goes through its stages by itself; what it prints tells when one begins and ends.
"""

import contextvars
import logging
import queue
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from stages._steps import Steps

R = TypeVar("R")

_LINE = re.compile(r"(?:Running stage '(?P<begins>[^']+)'|ERROR: failed to reproduce '(?P<fails>[^']+)')")


class StageFailed(RuntimeError):
    """A stage that failed; its Prefect task shows this."""


class StageTasks(Steps):
    """The steps of a flow over isolated experiments: in the task of each, a task for each stage that it runs.

    Args:
        steps: of the flow.
    """

    def __init__(self, steps: Steps) -> None:
        super().__init__(steps._server, steps.flow_run_id)
        self._running: dict[str, tuple[queue.SimpleQueue[str], Future[None]]] = {}  # by experiment
        self._pool = ThreadPoolExecutor(max_workers=64, thread_name_prefix="stage-task")
        self._listener = _Listener(self._hear)

    def __enter__(self) -> "StageTasks":
        logging.getLogger("pipelines.output").addHandler(self._listener)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("pipelines.output").removeHandler(self._listener)
        for experiment in list(self._running):
            self._end(experiment, "its experiment was ended")
        self._pool.shutdown()

    def run(self, name: str, work: Callable[[], R]) -> R:
        """Run an experiment as a task, which ends after those of its stages."""

        def watched() -> R:
            try:
                result = work()
            except BaseException as error:
                self._end(name, f"its experiment ended with {type(error).__name__}")
                raise
            self._end(name)
            return result

        return super().run(name, watched)

    def _hear(self, experiment: str, line: str) -> None:
        """Take note of a line; called in the context of the experiment's task."""
        found = _LINE.match(line)
        if found is None:
            return
        self._end(experiment, line if found["fails"] else "")
        if found["begins"]:
            ended: queue.SimpleQueue[str] = queue.SimpleQueue()
            context = contextvars.copy_context()
            self._running[experiment] = ended, self._pool.submit(context.run, self._watch, found["begins"], ended)

    def _watch(self, stage: str, ended: "queue.SimpleQueue[str]") -> None:
        """Be a stage's task, until it has ended."""
        super().run(stage, lambda: _wait(ended))

    def _end(self, experiment: str, fault: str = "") -> None:
        """End the task of the stage that an experiment was at."""
        if experiment in self._running:
            ended, task = self._running.pop(experiment)
            ended.put(fault)
            task.exception()  # wait until Prefect knows; the fault is the experiment's to report


def _wait(ended: "queue.SimpleQueue[str]") -> None:
    fault = ended.get()
    if fault:
        raise StageFailed(fault)


class _Listener(logging.Handler):
    """Hands over the lines of `pipelines.output`, which are logged as (experiment, line)."""

    def __init__(self, hear: Callable[[str, str], None]) -> None:
        super().__init__()
        self._heard = hear

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and len(record.args) == 2:
            experiment, line = record.args
            self._heard(str(experiment), str(line))
