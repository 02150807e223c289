"""Where a study lies: Optuna's journal, an append-only file, under a lock of the kernel; or a database.

Optuna's own locks are files that the holder removes: one that is killed inside leaves the lock behind, and everyone
else waits 30 seconds for it. The kernel releases a `flock` when its holder dies, however it dies.
"""

import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation

VARIABLE = "MLML_OPTUNA_STORAGE"
"""Environment variable with the URL of a PostgreSQL database for studies; the default is a journal for each."""

JOURNAL = "journal.log"

FLUSH_SECONDS = 0.1
"""After a trial's end, within which the ends of others do not wait for the disk."""

OVER = "over"
"""File beside a journal, and attribute of a study in a database: the run whose search ended with it."""


class StorageError(RuntimeError):
    """A database that cannot be used; the message names the way out."""


class Lock(Protocol):
    """A lock that ends with the process that holds it."""

    def acquire(self, wait: bool = True) -> bool:
        """Take the lock; without `wait`, return False at once when another holds it."""

    def release(self) -> None:
        """Give the lock back."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Store(NamedTuple):
    """Where a study lies.

    Attributes:
        name: of the study there.
        lock: makes the lock of a part of the study.
    """

    storage: BaseStorage
    name: str
    lock: Callable[[str], Lock]


class FileLock:
    """Exclusive lock of the kernel on a file, between processes and between users of one process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, wait: bool = True) -> bool:
        """Take the lock; without `wait`, return False at once when another holds it."""
        descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class _JournalLock:
    """The journal's write lock. Whoever takes it first removes what a writer killed in mid-line left at the end."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = FileLock(journal.with_name(journal.name + ".flock"))

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            _cut_torn_line(self._journal)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def _cut_torn_line(journal: Path) -> None:
    """Remove a last line without its end: it was never acknowledged, and the next one would be glued to it."""
    with journal.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


class Journal(JournalFileBackend):  # type: ignore[misc]
    """Optuna's journal, which waits for the disk less often, and is not opened to be read where it has not grown.

    Optuna waits at every line. Here, that a trial begins is not waited for: if a power cut loses it, it is drawn again,
    the same. Of trials that end within `FLUSH_SECONDS` after another, the last may have to be run again. An evaluation
    is on disk before the checkpoint that would not let it be repeated.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=_JournalLock(path))
        self._ended = -math.inf

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        if self._log_number_offset.get(log_number_from) == os.stat(self._file_path).st_size:
            return ()
        grown: Iterable[dict[str, Any]] = super().read_logs(log_number_from)
        return grown

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._lock.acquire()
        try:
            with open(self._file_path, "ab") as file:
                file.write(lines.encode())
                file.flush()
                if any(self._must_last(log["op_code"]) for log in logs):
                    os.fsync(file.fileno())
        finally:
            self._lock.release()

    def _must_last(self, operation: int) -> bool:
        if operation == JournalOperation.CREATE_TRIAL:
            return False
        if operation == JournalOperation.SET_TRIAL_STATE_VALUES:
            now = time.monotonic()
            if now < self._ended + FLUSH_SECONDS:
                return False
            self._ended = now
        return True


def journal_storage(path: Path) -> JournalStorage:
    """Open the journal at `path`; it is made when absent."""
    return JournalStorage(Journal(path))


def open_store(folder: Path, name: str) -> Store:
    """Open the store of a study: the database that the environment names, else the journal in `folder`.

    Args:
        folder: of the study on this machine.
        name: of the study in the database.

    Raises:
        StorageError: the database cannot be used.
    """
    url = os.environ.get(VARIABLE)
    if url:
        from mlml.search import _database

        return _database.open_store(url, name)
    return Store(journal_storage(folder / JOURNAL), "search", lambda part: FileLock(folder / f"{part}.lock"))


def has_study(folder: Path, name: str) -> bool:
    """Whether a study was begun and is not over; as `open_store`."""
    if not os.environ.get(VARIABLE):
        return (folder / JOURNAL).exists() and not (folder / OVER).exists()
    storage = open_store(folder, name).storage
    try:
        return not storage.get_study_user_attrs(storage.get_study_id_from_name(name)).get(OVER)
    except KeyError:
        return False


def begin(folder: Path, name: str, run: str) -> None:
    """Remove a study that an earlier run ended with, for a search to begin anew; one that was left midway stays.

    Args:
        folder: of the study on this machine.
        name: of the study in the database, if the environment names one.
        run: of the search; when it was killed, and goes on, still the same.
    """
    over = folder / OVER
    if os.environ.get(VARIABLE):
        storage = open_store(folder, name).storage
        with suppress(KeyError):  # there is none
            study = storage.get_study_id_from_name(name)
            if storage.get_study_user_attrs(study).get(OVER) == run:  # killed after its end: that is put off
                storage.set_study_user_attr(study, OVER, None)
        forget(name)
    elif over.exists() and over.read_text() == run:
        over.unlink()
    elif over.exists():
        (folder / JOURNAL).unlink(missing_ok=True)  # first: after a kill here it must not stand without the mark
        shutil.rmtree(folder)


def close(folder: Path, name: str, run: str) -> None:
    """Mark a study as the one that a run ended with. It stays to be looked at; of its folder, only a journal does.

    The arguments are those of `begin`.
    """
    if os.environ.get(VARIABLE):
        storage = open_store(folder, name).storage
        with suppress(KeyError):  # another machine has begun it anew
            storage.set_study_user_attr(storage.get_study_id_from_name(name), OVER, run)
        shutil.rmtree(folder)
        return
    (folder / OVER).write_text(run)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (JOURNAL, OVER):
            path.unlink()


def forget(name: str) -> None:
    """Remove a study that is over from the database, if the environment names one.

    Raises:
        StorageError: the database cannot be used.
    """
    if os.environ.get(VARIABLE):
        storage = open_store(Path(), name).storage
        with suppress(KeyError):  # there is none, or another process has just removed it
            study = storage.get_study_id_from_name(name)
            if storage.get_study_user_attrs(study).get(OVER):
                storage.delete_study(study)
