"""When recorded runs are sent to MLflow: while a stage trains, or later by 'mlml sync'."""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from mlml import beside
from mlml.tracking import store
from mlml.tracking.run import OUTBOX, SENDING, Record
from mlml.tracking.sender import BUSY, UNREACHABLE, Sender, SyncResult, is_sent, reason

logger = logging.getLogger(__name__)

NOT_SENT = 3
"""Exit code of the process that sends, when it could not send all."""

SLOWEST_SECONDS = 60.0
"""Between two tries of a server that is away."""


def sync(folder: Path, uri: str, wait_seconds: float = 5.0) -> SyncResult:
    """Send what MLflow does not have of the run in `folder`. A fault is returned, not raised.

    A run that is not finished and that no process has open any more becomes KILLED at MLflow.

    Args:
        folder: of the run; runs nested in it are not sent.
        uri: MLflow's tracking URI.
        wait_seconds: for another process that is sending the same run.
    """
    return Sender(folder, uri).send(wait_seconds)


def sync_all(root: Path, uri: str) -> list[SyncResult]:
    """Send every run recorded under `root`/.mlml/runs that MLflow does not have whole; return those, parents first."""
    results: list[SyncResult] = []
    for folder in _run_folders(root / ".mlml" / "runs"):
        if is_sent(folder):
            continue
        if results and results[-1].fault == UNREACHABLE:
            results.append(SyncResult(folder, None, fault=UNREACHABLE))
        else:
            results.append(sync(folder, uri, wait_seconds=0))
    return results


class Syncer:
    """Sends a run and all that are nested in it every few seconds, in a thread; nothing of it reaches the training.

    mlflow is imported by that thread, which slows down whatever the process does meanwhile; see `SyncProcess`.
    """

    def __init__(self, folder: Path, uri: str, every_seconds: float = 5.0) -> None:
        self.folder, self.uri, self.every_seconds = folder, uri, every_seconds
        self._senders: dict[Path, Sender] = {}
        self._closing = threading.Event()
        self._warned = self._sent = False
        self._thread = threading.Thread(target=self._work, name="mlflow-sync", daemon=True)
        self._thread.start()

    def close(self, timeout_seconds: float = 30.0) -> bool:
        """Send the rest, for at most so long, and return whether MLflow has everything."""
        self._closing.set()
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            self._warn(f"did not answer in {timeout_seconds:.0f} s")
            return False
        return self._sent

    def _work(self) -> None:
        wait = self.every_seconds
        while True:
            closing = self._closing.is_set()  # asked before the pass, so that a last pass sees all that was written
            fault = self._pass()
            self._sent = fault is None
            if closing:
                if fault is not None:
                    self._warn(fault)
                return
            if fault is not None and fault != BUSY:
                self._warn(fault)
                wait = min(2 * wait, SLOWEST_SECONDS)
            else:
                wait = self.every_seconds
            self._closing.wait(wait)

    def _pass(self) -> str | None:
        """Send all that there is now; return the first fault."""
        first: str | None = None
        try:
            for folder in _run_folders(self.folder):
                if folder not in self._senders:
                    self._senders[folder] = Sender(folder, self.uri)
                fault = self._senders[folder].send()
                first = first or fault.fault
                if fault.fault == UNREACHABLE:
                    break
        except Exception as error:  # a folder that went away, say
            logger.debug("sync of %s", self.folder, exc_info=True)
            return reason(error)
        return first

    def _warn(self, fault: str) -> None:
        if not self._warned:
            self._warned = True
            what = "is not reachable" if fault == UNREACHABLE else f"did not take the run ({fault})"
            logger.warning(
                "MLflow at %s %s; the run is kept in %s and 'mlml sync' sends it later", self.uri, what, self.folder
            )


class SyncProcess:
    """A `Syncer` in a process of its own: importing mlflow costs a second or two, which a stage need not wait for.

    It gets ready at once, and is told by `begin` which run to send. It lives as long as its standard input: it ends,
    after a last pass, when this process closes that or dies.

    Args:
        uri: MLflow's tracking URI.
        fork: fork this process, which has imported mlflow, has no thread yet, and has opened no run: the run's lock
            would live on in the fork.
    """

    def __init__(self, uri: str, fork: bool = False) -> None:
        self.uri, self.folder = uri, Path()
        self._process: beside.Process
        if fork:
            self._process = beside.Fork(lambda told: _send(uri, told))
        else:
            self._process = subprocess.Popen([sys.executable, "-m", __name__, uri], stdin=subprocess.PIPE)

    def begin(self, folder: Path) -> None:
        """Send the run in `folder`, and those nested in it, from now on."""
        self.folder = folder
        beside.tell(self._process, str(folder).encode())

    def close(self, timeout_seconds: float = 30.0) -> bool:
        """Have the rest sent, for at most so long, and return whether MLflow has everything."""
        code = beside.end(self._process, timeout_seconds)
        if code in (0, NOT_SENT):
            return code == 0  # it has said itself what was wrong
        fault = f"no answer in {timeout_seconds:.0f} s" if code is None else "the process that sends died"
        logger.warning(
            "MLflow at %s: %s; the run is kept in %s and 'mlml sync' sends it later", self.uri, fault, self.folder
        )
        return False


def _run_folders(root: Path) -> list[Path]:
    """Every folder under `root` that holds a run, parents first."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in (OUTBOX, SENDING)]
        if Record.FILE in files:
            found.append(Path(folder))
    return sorted(found, key=lambda path: (len(path.parts), path))


def _send(uri: str, told: BinaryIO) -> int:
    """Send what lies in the folder that `told` names, until that ends; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the stage ends, and then this
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with beside.importing():
        store.warm_up(uri)
    os.nice(beside.YIELDS)
    # what goes wrong is told once, by the sender; mlflow has read its level already where this is a fork
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
    folder = told.readline().decode().strip()
    if not folder:
        return 0
    syncer = Syncer(Path(folder), uri)
    told.read()
    sent = syncer.close(timeout_seconds=25.0)
    logging.shutdown()
    return 0 if sent else NOT_SENT


def main() -> None:
    """Send what the folder holds that standard input names, until that ends: `python -m mlml.tracking.sync URI`."""
    os._exit(_send(sys.argv[1], sys.stdin.buffer))  # taking mlflow apart takes longer than a stage should wait


if __name__ == "__main__":
    main()
