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

from stages import _warm

DVC = ("dvc", "pipelines.isolated_dvc", "pipelines.restore_dvc")
"""Programs and modules that are DVC's command line."""

WAIT_SECONDS = 30.0
"""How long a stage waits for another process on the same run; one whose `dvc` was killed needs a moment to end.

A stage of an isolated experiment waits as long as the other lives: experiments that run side by side share the stages
that their values do not change.
"""


def is_warm() -> bool:
    """Whether the warm parent has forked this process; false once `end_with_dvc` was called."""
    return _warm.CLIENT in os.environ


def end_with_dvc() -> None:
    """End this process when the `dvc` that started it ends, so that no orphan goes on training.

    A kill of `dvc` alone leaves its command running, and the next `dvc repro` would start a second copy on the same
    outputs. Every process between this one and `dvc` is watched; run by hand, without DVC, nothing is. A stage that
    the warm parent has forked watches it, the client that stands for the stage under `dvc`, and what is above that.

    Raises:
        SystemExit: one of them has ended already.
    """
    warm = os.environ.pop(_warm.CLIENT, None)  # not of the processes that the stage starts
    client, parent = map(int, warm.split()) if warm else (os.getpid(), os.getppid())
    if not warm and "DVC_STAGE" not in os.environ:
        return
    watched: list[int] = []
    try:
        if warm:
            watched += [os.pidfd_open(parent), os.pidfd_open(client)]
        if "DVC_STAGE" in os.environ:
            watched += _up_to_dvc(psutil.Process(client))
        # now that they are watched: those were the right ones, not others with their numbers
        if os.getppid() != parent or (warm and not _lives(watched[1])):
            raise ProcessLookupError
    except (ProcessLookupError, psutil.NoSuchProcess):
        raise SystemExit("the process that started this stage has ended; the stage ends too") from None
    threading.Thread(target=_end_after, args=(watched,), daemon=True, name="end-with-dvc").start()


def _up_to_dvc(process: psutil.Process) -> list[int]:
    """Descriptors of the ancestors of a process up to `dvc`; of its parent alone if DVC was called as a library."""
    if process.ppid() == 1:
        raise ProcessLookupError
    found = []
    for ancestor in process.parents():
        found.append(os.pidfd_open(ancestor.pid))
        if is_dvc(ancestor):
            return found
    for descriptor in found[1:]:
        os.close(descriptor)
    return found[:1]


def _lives(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return not poll.poll(0)


def is_dvc(process: psutil.Process) -> bool:
    """Whether a process is DVC's command line, as it is or as the pipelines start it."""
    try:
        return any(Path(word).name in DVC for word in process.cmdline()[:3])
    except psutil.Error:
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
    isolated = bool(os.environ.get("DVC_EXP_NAME"))
    deadline, told = time.monotonic() + WAIT_SECONDS, False
    with (folder / "lock").open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline and not told:
                    file.seek(0)
                    holder = f"{folder}: process {file.read().strip() or '?'} works on this run"
                    if not isolated:
                        raise SystemExit(f"{holder}; wait for it or end it") from None
                    print(f"{holder}; waiting for it", flush=True)
                    told = True
                time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
