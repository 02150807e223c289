"""The run of a stage on a worker, as the coordinator sees it: its lines, its progress, its end, or its silence."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from pipelines.lock_file import WorkspaceError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

T = TypeVar("T")

POLL_SECONDS = 1.0
INSIST_SECONDS = 60.0
START_SECONDS = 60.0
"""How long a process may take from being given a stage to its first sign of life, at least."""
LINES = "pipelines.output"
"""Logger of what a stage prints; what Prefect logs of its own is for its pages."""
PAGE = 200


def insist(ask: Callable[[], T], seconds: float = INSIST_SECONDS) -> T:
    """Ask the Prefect server, again for a while if it is away or overloaded."""
    import httpx

    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except httpx.HTTPError as error:
            refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
            if refused or time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


class Silence:
    """How long a run has given no sign of life, by this machine's clock; clocks of several machines may differ.

    Args:
        seconds: after which it is taken for dead, once it has begun.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._sign: Any = None
        self._since = time.monotonic()
        self._asked = time.monotonic()

    def missed(self) -> None:
        """Take note that the server did not answer: this says nothing about the run."""
        now = time.monotonic()
        self._since += now - self._asked
        self._asked = now

    def too_long(self, begun: bool, sign: Any) -> bool:
        """Whether it has been silent for too long.

        Args:
            begun: a worker has taken it.
            sign: what changes while it lives.
        """
        self._asked = now = time.monotonic()
        if not begun or sign != self._sign:
            self._sign, self._since = sign, now
        return now - self._since > (self.seconds if sign[1] is not None else max(self.seconds, START_SECONDS))


class WatchedRun:
    """One flow run in a work pool.

    Args:
        client: of Prefect.
        identity: of the flow run.
        pool: name of the pool, for people.
        silence_seconds: after which its worker is taken for dead.
        beat: called often; tells the worker that the coordinator lives.
        say: takes each line that the stage prints.
        progress: file to show what the stage does now (`mlml.status`).
    """

    def __init__(
        self,
        client: "SyncPrefectClient",
        identity: UUID,
        pool: str,
        silence_seconds: float,
        beat: Callable[[], None],
        say: Callable[[str], None],
        progress: Path | None = None,
    ) -> None:
        self.client, self.identity, self.pool = client, identity, pool
        self.beat, self.say, self.progress = beat, say, progress
        self._silence = Silence(silence_seconds)
        self._seen = 0
        self._waiting_said = False

    def wait(self) -> "FlowRun | None":
        """Follow it to its end; None when it has been silent for too long, and was marked as crashed."""
        import httpx
        from prefect.exceptions import ObjectNotFound

        while True:
            try:
                self.beat()
                run = self.client.read_flow_run(self.identity)
                self._show_lines()
            except httpx.HTTPError:
                self._silence.missed()
                time.sleep(POLL_SECONDS)
                continue
            except ObjectNotFound:
                raise WorkspaceError(f"the run {self.identity} of pool {self.pool} was removed from Prefect") from None
            state = run.state
            if state is None or state.is_final():
                insist(self._show_lines)
                return run
            if self._overdue(run):
                self._give_up()
                return None
            time.sleep(POLL_SECONDS)

    def _give_up(self) -> None:
        """Have Prefect take the run for crashed; its process, should it come back, finds that out and ends."""
        import httpx
        from prefect.states import Crashed

        crashed: Any = Crashed(message=f"no sign of life for {self._silence.seconds:.0f} s")
        with suppress(httpx.HTTPError):
            insist(lambda: self.client.set_flow_run_state(self.identity, crashed, force=True))

    def _overdue(self, run: "FlowRun") -> bool:
        from pipelines.stage_flow import BEAT, STATUS

        assert run.state is not None
        begun = not run.state.is_scheduled()
        if not begun and not self._waiting_said:
            self._waiting_said = True
            self.say(f"waits for a free worker of pool {self.pool}")
        if self.progress is not None and STATUS in run.labels:
            partial = self.progress.with_name(f"{self.progress.name}.partial")
            partial.write_text(str(run.labels[STATUS]))
            partial.replace(self.progress)
        return self._silence.too_long(begun, (run.state.type, run.labels.get(BEAT)))

    def _show_lines(self) -> None:
        """Hand over what was logged since the last look."""
        from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

        chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self.identity]))
        while True:
            logs = self.client.read_logs(chosen, limit=PAGE, offset=self._seen)
            self._seen += len(logs)
            for log in logs:
                if log.name == LINES:
                    self.say(log.message)
            if len(logs) < PAGE:
                return
