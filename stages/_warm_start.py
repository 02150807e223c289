"""Starting and ending the warm parent (`stages._warm`): by `mlml repro` for itself, by `mlml up` until `mlml down`."""

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from stages import _servers, _warm

BEGIN_SECONDS = 10.0
"""How long a parent may take to say who it is: the time that Python takes to begin."""

END_SECONDS = 10.0
"""How long to wait for a parent that was told to end; one with stages of another `dvc` ends after them, by itself."""

_PRIVATE_PREFIXES = ("DVC_", "MLML_")


def start(root: Path, owner_pid: int | None, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start the warm parent for stages with this process's environment, and do not wait until it is ready.

    If the project has one with such an environment already, the new one ends at once.

    Args:
        root: of the project, the folder that holds .mlml.
        owner_pid: of this process: the parent ends after it, and after the last stage; None for `stop` to end it.
        environment: of the stages, over this process's.
    """
    environment = {**os.environ, **(environment or {})}
    folder = _warm.place(root, environment)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    shared = {name: value for name, value in environment.items() if not name.startswith(_PRIVATE_PREFIXES)}
    # the allocator that comes with Arrow has a thread of its own, which a fork would lose
    own = {**_servers.settings(root, environment), "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    # what a stage sets where its environment says nothing; it does so only after the fork
    defaults = _servers.settings(root, {})
    with (folder / "log").open("ab") as log:
        program = str(Path(_warm.__file__).resolve())
        return subprocess.Popen(
            [sys.executable, "-P", program, str(folder), str(owner_pid or 0), json.dumps(defaults)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=root,
            env={**shared, **own},
            start_new_session=True,
        )


@contextlib.contextmanager
def warm(root: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Have a warm parent while the body runs; it ends with this process, however that ends. Arguments as `start`."""
    process = start(root, os.getpid(), environment)
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)


def ensure(root: Path) -> None:
    """Start a warm parent that `stop` ends, for stages with this process's environment; unless there is one."""
    folder = _warm.place(root, os.environ)
    if running(folder) is None:
        process = start(root, None)
        deadline = time.monotonic() + BEGIN_SECONDS
        while running(folder) is None and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)  # until `stop` would find it; it is not ready then
        print(f"Warm parent of stages started; its log: {folder / 'log'} (stop it with 'make down')", flush=True)


def stop(root: Path) -> None:
    """End every warm parent that `ensure` started, with its last stage, and print what was done."""
    ended = []
    for folder in sorted((root.resolve() / ".mlml" / "warm").glob("*/")):
        found = running(folder)
        if found is None or found[1]:
            continue
        pid = found[0]
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            if running(folder) == found:  # it had that number when the descriptor was opened
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                still = "" if poll.poll(END_SECONDS * 1000) else ", ends with its last stage"
                ended.append(f"{pid}{still}")
            os.close(descriptor)
    done = f"stopped (pid {', '.join(ended)})" if ended else "not running"
    print(f"Warm parent of stages: {done}", flush=True)


def running(folder: Path) -> tuple[int, int] | None:
    """Process id and owner (0: none) of the parent that holds the lock of a folder."""
    try:
        with (folder / "lock").open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, owner = map(int, lock.read().split())
                return pid, owner
    except (FileNotFoundError, ValueError):  # not there, or its holder is about to write
        pass
    return None
