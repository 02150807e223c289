"""A stage's work as one Prefect flow run with a task run for each step, where Prefect only watches.

The work happens once, in the main thread, whatever Prefect does: its outcome is kept here, and an outage of the
server costs one warning sentence and the rest of the record, never the work.
"""

import inspect
import logging
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Generic, TypeVar

from mlml import status
from stages._servers import answers

R = TypeVar("R")
T = TypeVar("T")

logger = logging.getLogger(__name__)

PROBE_SECONDS = 5.0
DRAIN_SECONDS = 5.0
AWAY_SECONDS = 30.0

LOGGERS = ("mlml", "stages", "pipelines")
"""The project's own; what they log is shown, and kept by Prefect."""


class _Once(Generic[R]):
    """A piece of work that runs at the first call only, and keeps its outcome."""

    def __init__(self, work: Callable[[], R]) -> None:
        self._work = work
        self._results: list[R] = []
        self.started = False
        self.error: BaseException | None = None
        self._traceback: TracebackType | None = None

    def __call__(self) -> R:
        if not self.started:
            self.started = True
            try:
                self._results.append(self._work())
            except BaseException as error:
                self.error, self._traceback = error, error.__traceback__
        if self.error is not None:
            raise self.error.with_traceback(self._traceback)  # without the engine's frames, which would bury the work's
        return self._results[0]

    def watched(self, engine: Callable[[], object], server: "_Server") -> R:
        """Run under `engine`, a Prefect call that should call this once; its own failures are reported, not raised.

        Raises:
            BaseException: what the work raised, unchanged; or an interrupt that reached the engine instead.
        """
        from prefect.exceptions import Abort, Pause

        try:
            engine()
        except BaseException as error:
            if error is not self.error:
                if not isinstance(error, (Exception, Abort, Pause)):
                    raise
                server.failed(error)
        return self()


class _Server:
    """What is known of the Prefect server: whether it answers, and whether that has been said.

    Attributes:
        url: of its API.
        away: it did not answer when last asked.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.away = False
        self._asked = 0.0
        self._warned = False

    def answers(self) -> bool:
        """Ask the server; while it is away, at most every `AWAY_SECONDS`, since one that hangs costs time."""
        if self.away and time.monotonic() - self._asked < AWAY_SECONDS:
            return False
        self.away = not answers(f"{self.url}/health", PROBE_SECONDS)
        self._asked = time.monotonic()
        if self.away:
            self._warn("does not answer")
        return not self.away

    def failed(self, error: BaseException) -> None:
        """Take note that Prefect failed to record something."""
        if self.answers():
            self._warn(f"did not record a step ({type(error).__name__})")

    def _warn(self, fault: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "Prefect server %s %s; the stage goes on, and its page there stays incomplete", self.url, fault
            )


class Steps:
    """The steps of a flow."""

    def __init__(self, server: _Server | None = None, flow_run_id: str | None = None) -> None:
        self._server = server
        self._flow_run_id = flow_run_id

    @property
    def flow_run_id(self) -> str | None:
        """Id of the Prefect flow run; None when Prefect is away."""
        return self._flow_run_id

    def run(self, name: str, work: Callable[[], R]) -> R:
        """Run one step as a Prefect task run called `name`, or plainly when Prefect is away.

        Raises:
            BaseException: what the work raised, unchanged.
        """
        status.begin(name)
        server = self._server
        if server is None or not server.answers():
            return work()
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        once = _Once(work)

        @task(name=name, task_run_name=lambda: name, persist_result=False, cache_policy=NO_CACHE)
        def step() -> None:
            try:
                once()
            finally:
                server.answers()  # so that an outage is known, and quiet, before the end is reported

        return once.watched(step, server)

    def beside(self, name: str) -> Callable[[list[Any] | None], None]:
        """Begin a step that runs beside the others, in another process; returns what is to hear its fault, or None."""
        return lambda fault: None


def run_flow(
    name: str,
    run_name: str,
    api_url: str | None,
    body: Callable[[Steps], T],
    parameters: Mapping[str, Any] | None = None,
) -> T:
    """Run `body` as the one Prefect flow run of this process, in this thread.

    Args:
        name: of the flow, the stage's.
        run_name: of the flow run, the experiment's.
        api_url: of the Prefect server; None runs the body without Prefect.
        body: the work; it names its steps by `Steps.run`.
        parameters: shown with the run; names must be Python identifiers, values JSON.

    Returns:
        What the body returns.

    Raises:
        BaseException: what the body raised, unchanged; the flow run is then Failed, or Crashed after an interrupt.
    """
    log_to_console()
    if api_url is None:
        return body(Steps())
    server = _Server(api_url.rstrip("/"))
    _console.server = server
    if not server.answers():
        return body(Steps())
    return _recorded(name, run_name, server, body, dict(parameters or {}))


def _recorded(name: str, run_name: str, server: _Server, body: Callable[[Steps], T], parameters: dict[str, Any]) -> T:
    """Run the body under Prefect's flow engine."""
    from prefect import flow
    from prefect.context import FlowRunContext
    from prefect.exceptions import Abort, TerminationSignal
    from prefect.filesystems import NullFileSystem
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.utilities.urls import url_for

    steps = Steps()
    once = _Once(lambda: body(steps))

    def watched(**_: Any) -> None:
        context = FlowRunContext.get()
        if context is not None and context.flow_run is not None:
            steps._server, steps._flow_run_id = server, str(context.flow_run.id)
            logger.info("Prefect flow run %s", url_for(context.flow_run), extra={"send_to_api": False})
            # Prefect would pickle the error of a failed flow to disk
            context.result_store = context.result_store.model_copy(update={"result_storage": NullFileSystem()})
        try:
            once()
        finally:
            if not server.answers():
                raise Abort("the server is away")  # ends the engine without a report that could only time out

    # so that the parameters have names of their own in Prefect's pages
    shown = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY) for key in parameters]
    watched.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    recorded = flow(name=name, flow_run_name=lambda: run_name, validate_parameters=False, persist_result=False)(watched)
    with ExitStack() as stack:
        # a heartbeat thread makes each flow wait up to a second for its end
        stack.enter_context(temporary_settings({PREFECT_API_URL: server.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
        stack.callback(_drain, server)
        _send_quietly(server)
        try:
            return once.watched(lambda: recorded(**parameters), server)
        except TerminationSignal as error:
            signal.raise_signal(error.signal)  # Prefect has put the handler back: die of the signal, as without it
            raise


def _send_quietly(server: _Server) -> None:
    """Have logs and events sent by clients that give up soon and write nothing to the console."""
    from prefect.events.clients import PrefectEventsClient
    from prefect.events.worker import EventsWorker
    from prefect.logging import handlers

    class QuietLogs(handlers.APILogWorker):
        async def _handle_batch(self, items: list[dict[str, Any]]) -> None:
            try:
                await self._client.create_logs(items)
            except Exception as error:
                server.failed(error)

    def send(log: dict[str, Any]) -> None:
        if not server.away:
            QuietLogs.instance().send(log)

    handlers.set_api_log_sink(send)
    # two attempts are immediate; each further one waits a second, for each event
    EventsWorker.set_client_override(PrefectEventsClient, api_url=server.url, reconnection_attempts=2)
    _console.attach()
    for library in LOGGERS:
        for handler in logging.getLogger("prefect.extra").handlers:
            logging.getLogger(library).addHandler(handler)


def _drain(server: _Server) -> None:
    """Send what waits, for a bounded time, so that the end of the process finds nothing left to wait for."""
    from prefect.events.worker import EventsWorker

    workers: Any = EventsWorker  # the table is shared by all services, logs included
    tasks = [(service._loop, service._task) for service in list(workers._instances.values())]
    workers.drain_all(timeout=0.0 if server.away else DRAIN_SECONDS)
    for loop, task in tasks:
        if loop is not None and task is not None and not task.done():
            loop.call_soon_threadsafe(task.cancel)


class _Console(logging.Filter):
    """Keeps off the console what Prefect's own pages show, and what it has to say of a server that is away."""

    server: _Server | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        origin = record.name.split(".")
        if origin[0] not in ("prefect", "EventsWorker", "QuietLogs", "websockets", "httpx", "httpcore"):
            return True
        if origin[0] in ("EventsWorker", "QuietLogs") or origin[1:2] in (
            ["flow_runs"],
            ["task_runs"],
            ["events"],
            ["_internal"],
        ):
            return False
        return record.levelno >= logging.WARNING and not (self.server is not None and self.server.away)

    def attach(self) -> None:
        """Filter what reaches the console; importing Prefect may have added handlers."""
        for name in (None, "prefect._internal"):
            for handler in logging.getLogger(name).handlers:
                handler.addFilter(self)


_console = _Console()


def log_to_console() -> None:
    """Show the project's own log lines; before Prefect is imported, which would bring a console of its own."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for library in LOGGERS:
        if logging.getLogger(library).level == logging.NOTSET:
            logging.getLogger(library).setLevel(logging.INFO)
