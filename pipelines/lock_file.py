"""dvc.lock and DVC's own locks around a parallel run: the order of entries, and what a killed `dvc` leaves behind.

DVC appends an entry when a stage ends for the first time, so stages side by side would leave another order than a
serial `dvc repro`. The order to restore is kept in a file until a run has ended well, so that one that was killed, or
whose stage failed, does not lose it.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages._life import is_dvc

LOCK = Path("dvc.lock")
WAIT_SECONDS = 60.0


class WorkspaceError(RuntimeError):
    """The workspace is not in a state to run in; the message names the way out."""


class LockFile:
    """dvc.lock of a workspace during one parallel run.

    Args:
        folder: the workspace.
        state: folder for what must outlive a kill.
    """

    def __init__(self, folder: Path, state: Path) -> None:
        self.path = folder / LOCK
        self._order, self._backup = state / "order.json", state / "dvc.lock"

    @property
    def unfinished(self) -> bool:
        """Whether an earlier run was killed or failed, so that some entries to come have places before others."""
        return self._order.exists()

    def repair(self) -> str | None:
        """Put back the last whole dvc.lock if a killed `dvc` left half of one; return a sentence about it, or None."""
        if not self.path.exists() or _entries(self.path) is not None:
            return None
        if not self._backup.exists():
            raise WorkspaceError(f"{self.path}: is cut off or damaged; restore it, as by 'git checkout {LOCK}'")
        _replace(self.path, self._backup.read_bytes())
        return f"{self.path} was cut off by a kill; the last whole one is back, and what it lacks is in the run cache"

    def begin(self) -> None:
        """Remember the order of the entries as they are, unless a killed run remembered it."""
        if not self.unfinished:
            _replace(self._order, json.dumps(list(_entries(self.path) or {})).encode())
        self.keep()

    def keep(self) -> None:
        """Keep a copy of dvc.lock, if it is whole at this moment."""
        with contextlib.suppress(FileNotFoundError):
            content = self.path.read_bytes()
            if _entries_of(content) is not None:
                _replace(self._backup, content)

    def finish(self, serial: Sequence[str], repo_lock: Any, well: bool = True) -> None:
        """Order the entries as a serial `dvc repro` would: those that were there, then new ones as it comes to them.

        Args:
            serial: stages in the order of a serial run.
            repo_lock: DVC's lock of the repository.
            well: nothing has failed; otherwise the order stays remembered for the run that makes the rest.
        """
        from dvc.utils.serialize import dumps_yaml, loads_yaml

        before = json.loads(self._order.read_text()) if self.unfinished else []
        place = {name: number for number, name in enumerate(dict.fromkeys([*before, *serial]))}
        with _held(repo_lock):
            if self.path.exists():
                content = loads_yaml(self.path.read_text(), typ="rt")
                entries = content["stages"]
                wanted = sorted(entries, key=lambda name: place.get(name, len(place)))
                if wanted != list(entries):
                    content["stages"] = {name: entries[name] for name in wanted}
                    _replace(self.path, dumps_yaml(content).encode())
            if well:
                self._order.unlink(missing_ok=True)
        self.keep()


def drop_dead_locks(folder: Path) -> None:
    """Remove what killed `dvc` processes left in DVC's table of busy files; to be called while no other dvc starts.

    DVC itself drops the entries of processes that do not exist, but not those whose number another process has since,
    and it stops for good at a table that was cut off in the middle of a write.
    """
    table = folder / ".dvc" / "tmp" / "rwlock"
    try:
        content = json.loads(table.read_text())
    except FileNotFoundError:
        return
    except ValueError:
        content = {}
    kept = {
        "write": {path: who for path, who in content.get("write", {}).items() if _is_dvc(who)},
        "read": {
            path: alive
            for path, who in content.get("read", {}).items()
            if (alive := [entry for entry in who if _is_dvc(entry)])
        },
    }
    if kept != content:
        _replace(table, json.dumps(kept).encode())


@contextlib.contextmanager
def only_coordinator(state: Path) -> Iterator[None]:
    """Hold the workspace for one coordinator; another waits, and says for whom. The kernel frees it at any end."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            print(f"process {file.read().strip() or '?'} runs stages in this workspace; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def _held(lock: Any) -> Iterator[None]:
    """Hold DVC's lock; another `dvc` holds it for a moment at a time."""
    from dvc.lock import LockError

    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            lock.lock()
            break
        except LockError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.unlock()


def _entries(path: Path) -> Mapping[str, Any] | None:
    """Stages of a dvc.lock, none if there is no file; None if it is damaged."""
    return _entries_of(path.read_bytes()) if path.exists() else {}


def _entries_of(content: bytes) -> Mapping[str, Any] | None:
    try:
        read = YAML(typ="safe").load(content)
    except YAMLError:
        return None
    stages = read.get("stages") if isinstance(read, dict) else None
    whole = isinstance(stages, dict) and all(isinstance(entry, dict) and "cmd" in entry for entry in stages.values())
    return stages if whole else None


def _is_dvc(entry: Mapping[str, Any]) -> bool:
    try:
        return is_dvc(psutil.Process(int(entry["pid"])))
    except (psutil.Error, KeyError, ValueError):
        return False


def _replace(path: Path, content: bytes) -> None:
    """Write a file as a whole: whoever reads it, or a kill, meets the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
