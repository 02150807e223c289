"""The Prefect flow of a stage, in a process beside it: importing Prefect costs as much as importing torch.

The stage works in its own process and says there when it is begun, when each of its steps begins and ends, and what it
logs, in lines of JSON; here the same steps are run by Prefect, each waiting for the end that the stage tells. Neither
an outage of the server nor the end of this process reaches the work.

    stage -> flow     ["flow", name, run name, URL of the API, parameters]
                      ["step", name], ["end", null or fault] for each step, and ["end", ...] for the whole
                      ["beside", number, name] and ["ended", number, null or fault] of a step beside the others
                      ["log", logger, level, time, message]
    flow -> stage     the id of the flow run; nothing when there is none
"""

import contextlib
import contextvars
import importlib
import json
import logging
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

from mlml import beside, status
from stages._steps import LOGGERS, Steps, log_to_console, run_flow

R = TypeVar("R")
Heard = queue.SimpleQueue[list[Any]]

logger = logging.getLogger(__name__)

BEGIN_SECONDS = 20.0
"""How long a stage waits for the id of its flow run."""

END_SECONDS = 20.0
"""How long a stage waits for its flow run to be told that it has ended; and that process, for the server."""

MODULES = ("prefect.flow_engine", "prefect.task_engine", "prefect.events.worker")
"""What of Prefect is imported at once; the rest follows from it."""

GONE = ["gone"]
"""Heard when the stage's process has ended without a word."""


class FlowProcess(Steps):
    """The steps of a stage, as a Prefect flow run in a process of its own.

    It gets ready at once, and is told by `begin` which flow run to make. As a context manager it ends that: Completed,
    Failed after an exception, Crashed after an interrupt, or when this process dies.

    Args:
        fork: fork this process, which has imported Prefect, and has no thread yet.
    """

    def __init__(self, fork: bool = False) -> None:
        super().__init__()
        self._replies, replying = os.pipe()
        self._process: beside.Process
        if fork:
            self._process = beside.Fork(lambda told: follow(told, replying))
        else:
            command = [sys.executable, "-m", __name__, str(replying)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[replying])
        os.close(replying)
        self._handler = _Forward(self._tell)
        self._waits = self._ended = False
        self._telling, self._num_beside = threading.RLock(), 0

    def begin(self, name: str, run_name: str, api_url: str | None, parameters: Mapping[str, Any]) -> None:
        """Begin the flow run; `stages._steps.run_flow` says what these are."""
        log_to_console()
        self._tell("flow", name, run_name, api_url, dict(parameters))
        self._waits = True
        for library in LOGGERS:
            logging.getLogger(library).addHandler(self._handler)

    @property
    def flow_run_id(self) -> str | None:
        """Id of the Prefect flow run, for which this waits a bounded time; None when Prefect is away."""
        if self._waits:
            self._waits = False
            readable, _, _ = select.select([self._replies], [], [], BEGIN_SECONDS)
            self._flow_run_id = (os.read(self._replies, 100).decode() if readable else "") or None
        return self._flow_run_id

    def run(self, name: str, work: Callable[[], R]) -> R:
        """Run one step; it is a Prefect task run called `name`."""
        status.begin(name)
        self._tell("step", name)
        try:
            result = work()
        except BaseException as error:
            self._tell("end", fault_of(error))
            raise
        self._tell("end", None)
        return result

    def beside(self, name: str) -> Callable[[list[Any] | None], None]:
        """Begin a step that runs beside the others, in another process; returns what is to hear its fault, or None."""
        with self._telling:
            self._num_beside += 1
            number = self._num_beside
        self._tell("beside", number, name)
        return lambda fault: self._tell("ended", number, fault)

    def __enter__(self) -> "FlowProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """End the flow run, if it has not ended, as the error says; Prefect hears of it while this process goes on."""
        if not self._ended:
            self._ended = True
            for library in LOGGERS:
                logging.getLogger(library).removeHandler(self._handler)
            self._tell("end", fault_of(error))

    def close(self) -> None:
        """Wait, for a bounded time, until Prefect knows all."""
        code = beside.end(self._process, END_SECONDS + 1)
        if code != 0:
            fault = f"no answer in {END_SECONDS:.0f} s" if code is None else "the process that tells it died"
            logger.warning("Prefect: %s; the page of this run stays incomplete", fault)

    def _tell(self, *message: Any) -> None:
        with self._telling:  # the workers of a search are heard in threads
            beside.tell(self._process, json.dumps(message).encode())


class _Forward(logging.Handler):
    """Passes on what the stage logs; it is formatted here, since an error does not go through JSON."""

    def __init__(self, tell: Callable[..., None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell("log", record.name, record.levelno, record.created, self.format(record))


class _Failed(Exception):
    """Base of what stands for an error of the stage."""


class _Interrupted(BaseException):
    """Base of what stands for an interrupt of the stage, or for its sudden end."""


def fault_of(error: BaseException | None) -> list[Any] | None:
    """Return an error as it is told: its kind, its words, and whether it is no interrupt."""
    return None if error is None else [type(error).__name__, str(error), isinstance(error, Exception)]


def follow(told: BinaryIO, replying: int) -> int:
    """Be the flow of the stage that speaks through `told`; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the stage ends, and then this
        signal.signal(number, signal.SIG_IGN)
    os.environ.pop(status.VARIABLE, None)  # the stage writes that
    heard: Heard = queue.SimpleQueue()
    threading.Thread(target=_hear, args=(told, heard), daemon=True).start()
    with beside.importing():
        for module in MODULES:
            importlib.import_module(module)
    os.nice(beside.YIELDS)
    message = heard.get()
    if message == GONE:
        return 0
    _, name, run_name, api_url, parameters = message

    def body(steps: Steps) -> None:
        with contextlib.suppress(BrokenPipeError):  # the stage has died; it is marked all the same
            os.write(replying, (steps.flow_run_id or "").encode())
        os.close(replying)
        sides = _Sides(steps)
        try:
            _replay(heard, steps, sides)
        finally:
            sides.close()

    with contextlib.suppress(_Failed, _Interrupted):
        run_flow(name, run_name, api_url, body, parameters)
    return 0


def _hear(told: BinaryIO, heard: Heard) -> None:
    """Read all the time, so that the stage never waits for Prefect."""
    for line in told:
        heard.put(json.loads(line))
    heard.put(GONE)
    time.sleep(END_SECONDS)
    os._exit(1)


class _Sides:
    """The steps beside the others, each in a thread that waits for its end."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._ends: dict[int, queue.SimpleQueue[list[Any] | None]] = {}
        self._threads: list[threading.Thread] = []

    def begin(self, number: int, name: str) -> None:
        self._ends[number] = queue.SimpleQueue()
        # in the context of the flow run, by which Prefect knows whose step it is
        run = partial(contextvars.copy_context().run, self._follow, name, self._ends[number])
        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def end(self, number: int, fault: list[Any] | None) -> None:
        self._ends.pop(number).put(fault)

    def close(self) -> None:
        """End what has not ended, and wait for Prefect to take note."""
        for number in list(self._ends):
            self.end(number, ["Gone", "its process has ended", False])
        for thread in self._threads:
            thread.join(END_SECONDS)

    def _follow(self, name: str, end: "queue.SimpleQueue[list[Any] | None]") -> None:
        with contextlib.suppress(_Failed, _Interrupted):
            self._steps.run(name, lambda: _raise(end.get()))


def _raise(fault: list[Any] | None) -> None:
    """Raise what stands for a fault of the stage."""
    if fault is not None:
        name, text, failed = fault
        raise type(name, (_Failed if failed else _Interrupted,), {})(text)


def _replay(heard: Heard, steps: Steps, sides: _Sides) -> None:
    """Do what the stage does until the end of this step.

    Raises:
        _Failed, _Interrupted: as the stage's step did.
    """
    while True:
        kind, *about = heard.get()
        if kind == "step":
            with contextlib.suppress(_Failed, _Interrupted):  # the stage may go on after it, and says what it does
                steps.run(about[0], lambda: _replay(heard, steps, sides))
        elif kind == "beside":
            sides.begin(*about)
        elif kind == "ended":
            sides.end(*about)
        elif kind == "log" and steps.flow_run_id is not None:
            _send(*about)
        elif kind == "end":
            return _raise(about[0])
        elif [kind] == GONE:
            heard.put(GONE)  # for the step that this one is in
            raise _Interrupted("the process of the stage has ended")


def _send(name: str, level: int, at: float, message: str) -> None:
    """Send a log line to the page of the flow run, and of the task run that this is called in."""
    about = {"name": name, "levelno": level, "levelname": logging.getLevelName(level), "created": at, "msg": message}
    for handler in logging.getLogger("prefect.extra").handlers:
        handler.handle(logging.makeLogRecord(about))


def main() -> None:
    """Be the flow of the stage that speaks through standard input; the first argument is where to reply."""
    os._exit(follow(sys.stdin.buffer, int(sys.argv[1])))  # taking Prefect apart takes longer than a stage should wait


if __name__ == "__main__":
    main()
