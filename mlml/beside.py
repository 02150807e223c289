"""Processes beside this one, for what it should not wait for; each ends when its standard input does."""

import contextlib
import gc
import os
import select
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterator
from typing import BinaryIO

YIELDS = 10
"""What a process beside another adds to its niceness once it is ready: the work of the other comes first."""


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage: a large import makes half a million objects and drops none; looking costs a tenth of it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class Fork:
    """A fork of this process, used as `subprocess.Popen` is; its work is given the end of a pipe for its input.

    Args:
        work: done in the fork, which must be begun before this process has a thread; returns the exit code.
    """

    def __init__(self, work: Callable[[BinaryIO], int]) -> None:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(writing)
                with os.fdopen(reading, "rb") as told:
                    os._exit(work(told))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(reading)
        self.stdin: BinaryIO | None = os.fdopen(writing, "wb", buffering=0)
        # held open by another fork, it would hide the end of this process
        os.register_at_fork(after_in_child=self.stdin.close)
        self._pid, self._descriptor = pid, os.pidfd_open(pid)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code; raises subprocess.TimeoutExpired."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired("fork", timeout or 0)
        _, status = os.waitpid(self._pid, 0)
        os.close(self._descriptor)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        """End the fork by SIGKILL."""
        signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)


Process = subprocess.Popen[bytes] | Fork


def tell(process: Process, line: bytes) -> None:
    """Write a line to a process's standard input; one that has died hears nothing, as `end` tells."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(line + b"\n")
        process.stdin.flush()


def end(process: Process, timeout_seconds: float) -> int | None:
    """Close a process's standard input, and return the exit code; None if it had to be killed, for it did not end."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        return process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None
