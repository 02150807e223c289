"""MLflow's sqlite file: made, migrated and switched to write-ahead logging by one process while all others wait.

MLflow itself takes no lock for that. Several processes that begin at once break the file for good, be it new or left by
an older MLflow. Readers and a writer work side by side on a file with a write-ahead log only.

The file is opened through sqlite alone: to open and close it plainly, or copy it so, drops every lock that this process
has on it, and what another process then does with the log breaks it.
"""

import contextlib
import functools
import re
import sqlite3
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from mlml.tracking.run import TrackingError, lock_file

WAIT_SECONDS = 120.0
BUSY_SECONDS = 60.0
"""How long a migration waits for a reader or writer that has the file open."""

SWITCH_SECONDS = 2.0


def prepare(path: Path) -> None:
    """Bring the file into the form that the installed MLflow needs, whatever it is now.

    Raises:
        TrackingError: another process prepares it and does not end, a newer MLflow made it, or a migration failed.
    """
    if _is_ready(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_file(path.with_name(f"{path.name}.lock"), WAIT_SECONDS)
    if lock is None:
        raise TrackingError(
            f"{path}: another process has been preparing it for {WAIT_SECONDS:.0f} s; end it, and try again"
        )
    with lock:
        if _is_ready(path):
            return
        if _before(path).exists():
            _copy(_before(path), path)  # a migration was killed
        if revision(path) is None:
            _make(path)
        elif revision(path) != newest_revision():
            _migrate(path)
        _before(path).unlink(missing_ok=True)
        _use_write_ahead_log(path)


def revision(path: Path) -> str | None:
    """Version of the tables in a file, as MLflow's migrations call it; None where there are no tables.

    Raises:
        TrackingError: it cannot be read, or holds tables that are not MLflow's.
    """
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as database:
            return revision_of(database, path)
    except sqlite3.Error as error:
        raise TrackingError(f"{path}: cannot be read ({error}); 'mlml doctor' tells more") from None


def revision_of(database: sqlite3.Connection, path: Path) -> str | None:
    """As `revision`, of a file that is open; sqlite's own errors are passed on."""
    names = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not names:
        return None
    if "alembic_version" in names:
        found = database.execute("SELECT version_num FROM alembic_version").fetchone()
        if found is not None:
            return str(found[0])
    raise TrackingError(f"{path}: holds tables, but no whole MLflow store; move it away to begin a new one")


@functools.cache
def newest_revision() -> str:
    """Version of the tables that the installed MLflow needs, without the seconds that importing it takes."""
    return next(iter(revisions() - {before for _, earlier in _migrations() for before in earlier}))


def revisions() -> set[str]:
    """Versions of the tables that the installed MLflow knows."""
    return {name for name, _ in _migrations()}


def has_write_ahead_log(path: Path) -> bool:
    """Whether the file is in that mode."""
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as database:
        return bool(database.execute("PRAGMA journal_mode").fetchone() == ("wal",))


def read_only(path: Path) -> sqlite3.Connection:
    """Open the file so that nothing beside it appears: a plain reader would make, and leave, files of its own.

    Without a write-ahead log beside it nobody has it open, and all of it is in the file. Not for a process that has the
    file open itself: closing this would drop the locks of that.
    """
    alone = not path.with_name(f"{path.name}-wal").exists()
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro{'&immutable=1' if alone else ''}", uri=True)


def _is_ready(path: Path) -> bool:
    return (
        path.exists()
        and not _before(path).exists()
        and revision(path) == newest_revision()
        and has_write_ahead_log(path)
    )


def _make(path: Path) -> None:
    """Make the tables aside; they appear whole."""
    new = path.with_name(f"{path.name}.new")
    for leftover in path.parent.glob(f"{new.name}*"):
        leftover.unlink()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{new}", (path.parent / "artifacts").as_uri()).engine.dispose()
    _use_write_ahead_log(new)
    new.replace(path)


def _migrate(path: Path) -> None:
    """Migrate in place, for others may have the file open; a copy brings it back if this is killed."""
    found = revision(path)
    if found not in revisions():
        raise TrackingError(
            f"{path}: was made by a newer MLflow (tables {found}) than {version('mlflow')}, which is installed; "
            f"install that one, or move the file away to begin a new one"
        )
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    _copy(path, partial)
    partial.replace(_before(path))
    import sqlalchemy
    from mlflow.store.db.utils import _upgrade_db  # what `mlflow db upgrade` calls

    engine = sqlalchemy.create_engine(
        f"sqlite:///{path}", poolclass=sqlalchemy.NullPool, connect_args={"timeout": BUSY_SECONDS}
    )
    try:
        _upgrade_db(engine)
    except Exception as error:
        _copy(_before(path), path)
        _before(path).unlink()
        raise TrackingError(
            f"{path}: MLflow {version('mlflow')} could not migrate its tables from {found} "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); the file is as it was; end what has it open, "
            f"and try again"
        ) from error
    finally:
        engine.dispose()


def _before(path: Path) -> Path:
    """Copy of the file that is kept while it is migrated."""
    return path.with_name(f"{path.name}.before")


def _copy(source: Path, target: Path) -> None:
    """Copy one sqlite file over another through sqlite, which respects whoever has either open."""
    with (
        contextlib.closing(sqlite3.connect(source, timeout=BUSY_SECONDS)) as reader,
        contextlib.closing(sqlite3.connect(target, timeout=BUSY_SECONDS)) as writer,
    ):
        reader.backup(writer)


def _use_write_ahead_log(path: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(path, timeout=SWITCH_SECONDS)) as database,
        # it fails while others have the file open, who do without; the next process tries again
        contextlib.suppress(sqlite3.OperationalError),
    ):
        database.execute("PRAGMA journal_mode=WAL")


@functools.cache
def _migrations() -> tuple[tuple[str, frozenset[str]], ...]:
    """(version, versions that it follows) of every migration of the installed MLflow, read from their text."""
    return tuple(_read_migrations())


def _read_migrations() -> Iterator[tuple[str, frozenset[str]]]:
    package = find_spec("mlflow")
    if package is None or package.origin is None:
        raise TrackingError("mlflow is not installed; run 'make repro', which installs what is pinned")
    for path in (Path(package.origin).parent / "store" / "db_migrations" / "versions").glob("*.py"):
        text = path.read_text()
        name = re.search(r"^revision\b[^=\n]*=\s*[\"'](\w+)", text, re.MULTILINE)
        earlier = re.search(r"^down_revision\b[^=\n]*=(.*)$", text, re.MULTILINE)
        if name is not None:
            yield name[1], frozenset(re.findall(r"[\"'](\w+)[\"']", earlier[1] if earlier else ""))
