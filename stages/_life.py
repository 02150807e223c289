"""The life of a stage's process: it ends when DVC ends, and no two processes work on the same run."""

import contextlib
import fcntl
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

WAIT_SECONDS = 30.0
"""How long a stage waits for another process on the same run; one whose `dvc` was killed needs a moment to end."""


def end_with_dvc() -> None:
    """End this process when the `dvc` that started it ends, so that no orphan goes on training.

    A kill of `dvc` alone leaves its command running, and the next `dvc repro` would start a second copy on the same
    outputs. Every process between this one and `dvc` is watched; run by hand, without DVC, nothing is.

    Raises:
        SystemExit: `dvc` has ended already.
    """
    if "DVC_STAGE" not in os.environ:
        return
    if os.getppid() == 1:
        raise SystemExit("the dvc that started this stage has ended; the stage ends too")
    watched = []
    for ancestor in psutil.Process().parents():
        watched.append(os.pidfd_open(ancestor.pid))
        if _is_dvc(ancestor):
            threading.Thread(target=_end_after, args=(watched,), daemon=True, name="end-with-dvc").start()
            return
    # DVC was called as a library: what called it is the parent
    for descriptor in watched[1:]:
        os.close(descriptor)
    threading.Thread(target=_end_after, args=(watched[:1],), daemon=True, name="end-with-dvc").start()


def _is_dvc(process: psutil.Process) -> bool:
    try:
        return any(Path(word).name == "dvc" for word in process.cmdline()[:3])
    except psutil.NoSuchProcess:
        return False


def _end_after(descriptors: list[int]) -> None:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3)  # for what handles the signal; a thread deep in a kernel may not get to it
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a lock on a run's folder, which the kernel drops with its holder.

    Raises:
        SystemExit: another process keeps the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + WAIT_SECONDS
    with (folder / "lock").open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise SystemExit(
                        f"{folder}: process {file.read().strip() or '?'} works on this run; wait for it or end it"
                    ) from None
                time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
