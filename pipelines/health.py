"""The state of the workspace: its stores, its locks, and what killed processes left. Nothing is changed."""

import contextlib
import itertools
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from mlml.tracking import sqlite_store, store
from mlml.tracking.run import Record, TrackingError
from mlml.tracking.sender import is_sent
from pipelines import garbage
from pipelines.finding import Finding
from pipelines.references import LOCK, keys_of_lock
from stages import _servers
from stages._life import is_dvc

SECONDS = 10.0
"""How long a remote store may take to answer."""

_SHELLS = ("sh", "bash", "dash", "zsh", "fish")


def stores(root: Path) -> Iterator[Finding]:
    """MLflow's store, the records of runs, and DVC's cache and remote."""
    uri = store.tracking_uri(root)
    path = store.sqlite_path(uri)
    yield from _remote_mlflow(uri) if path is None else _sqlite(path)
    yield from _records(root)
    yield from _dvc(root)
    yield from _lock_file(root)


def locks(root: Path) -> Iterator[Finding]:
    """Who holds which lock. The kernel frees a lock with its holder; only DVC's table of busy files can be stale."""
    yield from _busy_files(root / ".dvc" / "tmp" / "rwlock")
    places = [root / ".dvc" / "tmp" / "lock", *sorted((root / ".mlml").glob("*.lock"))]
    places += [Path(here, name) for here, _, names in os.walk(root / ".mlml") for name in names if name == "lock"]
    holders = _holders()
    held = 0
    for path in places:
        with contextlib.suppress(OSError, psutil.Error):
            status = path.stat()
            key = (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
            if key not in holders:
                continue
            process = psutil.Process(holders[key])
            held += 1
            text = f"{path.relative_to(root)}: held by process {process.pid} ({_words(process)})"
            if process.status() == psutil.STATUS_STOPPED:
                yield Finding("locks", "fault", f"{text}, which is stopped", f"kill -CONT {process.pid}")
            else:
                yield Finding("locks", "note", text)
    if not held:
        yield Finding("locks", "ok", "nobody works in this workspace")


def orphans(root: Path) -> Iterator[Finding]:
    """Stages whose `dvc` has gone, and workspaces of isolated runs that were cancelled."""
    found = False
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if _is_orphan(process, root):
                found = True
                text = f"process {process.pid} ({_words(process)}) works without its dvc"
                yield Finding("orphans", "fault", text, f"kill {process.pid}")
    left = garbage.temporary_workspaces(root).items + garbage.remains(root).items
    if left:
        size = sum(item.size for item in left) / 10**6
        yield Finding("orphans", "note", f"{len(left)} temporary workspaces are left, {size:.1f} MB", "mlml gc")
    if not found and not left:
        yield Finding("orphans", "ok", "no stage works alone, no temporary workspace is left")


def lives(pid: int, started: float) -> bool:
    """Whether the process that was started then still runs, and not another with its number."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 2.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def cache_folder(root: Path) -> Path:
    """Folder of DVC's cache."""
    from dvc.config import Config

    return root / ".dvc" / str(Config(str(root / ".dvc")).get("cache", {}).get("dir") or "cache")


def without_password(uri: str) -> str:
    """The address, to be shown."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    return parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}").geturl()


def _sqlite(path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield Finding("stores", "ok", "MLflow: no store yet; the first run makes it")
        return
    aside = f"mv {path} {path}.damaged  # a new one is begun; put a copy back instead, if there is one"
    try:
        with contextlib.closing(sqlite_store.read_only(path)) as database:
            [(verdict, *_), *_] = database.execute("PRAGMA quick_check").fetchall()
            found = sqlite_store.revision_of(database, path)
    except TrackingError as error:
        yield Finding("stores", "fault", str(error), aside)
        return
    except sqlite3.Error as error:
        verdict, found = str(error), None
    if verdict != "ok":
        yield Finding("stores", "fault", f"MLflow: {path} is damaged ({verdict.splitlines()[0]})", aside)
        return
    if found == sqlite_store.newest_revision():
        yield Finding("stores", "ok", f"MLflow: {path} is whole, tables {found}")
    elif found in sqlite_store.revisions():
        text = f"MLflow: {path} is of an older MLflow (tables {found}); the next use migrates it"
        yield Finding("stores", "note", text, "mlml sync")
    else:
        text = f"MLflow: {path} is of a newer MLflow (tables {found}) than the installed one"
        yield Finding("stores", "fault", text, "rm .venv/ready; make repro  # installs what is pinned")
    with path.open("rb") as file:
        log_on = file.read(20)[18:19] == b"\x02"  # asking sqlite would make a log beside the file
    if not log_on:
        text = f"MLflow: {path} has no write-ahead log, so that readers wait for writers; the next use switches it on"
        yield Finding("stores", "note", text, "mlml sync")


def _remote_mlflow(uri: str) -> Iterator[Finding]:
    shown = without_password(uri)
    if urlsplit(uri).scheme in ("http", "https"):
        fault = "" if _servers.answers(f"{uri.rstrip('/')}/health", SECONDS) else "no answer"
    else:
        fault = _fault_of(lambda: _ask_database(uri))
    if fault:
        text = f"MLflow: {shown} cannot be reached ({fault}); runs are kept here until it can"
        yield Finding("stores", "fault", text, "mlml sync  # once it answers")
    else:
        yield Finding("stores", "ok", f"MLflow: {shown} answers")


def _ask_database(uri: str) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1"))
    engine.dispose()


def _records(root: Path) -> Iterator[Finding]:
    """Records of runs that MLflow does not have whole, but those of runs that are at work."""
    total, waiting = 0, 0
    for here, _, names in os.walk(root / ".mlml" / "runs"):
        if Record.FILE not in names:
            continue
        total, folder = total + 1, Path(here)
        try:
            record = Record.read(folder)
            running = record is not None and record.status == "RUNNING" and garbage.is_open(folder)
            waiting += not running and not is_sent(folder)
        except (OSError, ValueError, TypeError, TrackingError) as error:
            text = f"{folder.relative_to(root)}: the record of the run cannot be read ({type(error).__name__})"
            yield Finding("stores", "fault", text, f"rm -r {folder.relative_to(root)}  # the stage starts anew")
    if waiting:
        yield Finding("stores", "note", f"{waiting} of {total} recorded runs are not sent to MLflow yet", "mlml sync")
    else:
        yield Finding("stores", "ok", f"{total} recorded runs, all sent to MLflow")


def _dvc(root: Path) -> Iterator[Finding]:
    from dvc.config import Config

    cache = cache_folder(root)
    if cache.exists() and not os.access(cache, os.W_OK | os.X_OK):
        yield Finding("stores", "fault", f"DVC's cache {cache} cannot be written", f"chmod -R u+rwX {cache}")
    else:
        yield Finding("stores", "ok", f"DVC's cache: {cache}")
    config = Config(str(root / ".dvc"))
    name = config.get("core", {}).get("remote")
    if not name:
        text = "DVC has no remote: outputs are on this machine only"
        yield Finding("stores", "note", text, "dvc remote add -d NAME ADDRESS; dvc push")
        return
    fault = _fault_of(lambda: _ask_remote(config, name))
    if fault:
        yield Finding("stores", "fault", f"DVC's remote {name!r} cannot be reached ({fault})", "dvc remote list")
    else:
        yield Finding("stores", "ok", f"DVC's remote {name!r} can be reached")


def _ask_remote(config: Any, name: str) -> None:
    from dvc.fs import get_cloud_fs

    kind, options, path = get_cloud_fs(config, name=name)
    remote = kind(**options)
    if remote.protocol != "local":
        remote.exists(path)  # no answer is an error, an empty place is none
    elif not Path(path).exists() and not os.access(Path(path).parent, os.W_OK):
        raise OSError(f"there is no {path}, and it cannot be made")


def _fault_of(ask: Callable[[], None]) -> str:
    """What goes wrong when something far away is asked; empty when nothing does. It may never answer."""
    faults = [f"no answer in {SECONDS:.0f} s"]

    def work() -> None:
        try:
            ask()
            faults.clear()
        except Exception as error:
            faults[:] = [f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"]

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return faults[0] if faults else ""


def _lock_file(root: Path) -> Iterator[Finding]:
    path = root / LOCK
    if not path.exists():
        yield Finding("stores", "ok", f"{LOCK}: none yet")
        return
    try:
        yield Finding("stores", "ok", f"{LOCK}: {len(keys_of_lock(path.read_bytes()))} stages")
    except (ValueError, OSError) as error:
        kept = root / ".mlml" / "reproduce" / LOCK
        way_out = "mlml repro  # puts the last whole one back" if kept.exists() else f"git checkout {LOCK}"
        yield Finding("stores", "fault", f"{LOCK} cannot be read ({error})", way_out)


def _busy_files(table: Path) -> Iterator[Finding]:
    """Entries of DVC's table of busy files whose process is no `dvc` any more."""
    try:
        content: dict[str, Any] = json.loads(table.read_text())
        entries = [entry for who in content.get("read", {}).values() for entry in who]
        entries += list(content.get("write", {}).values())
        pids = {int(entry["pid"]) for entry in entries}
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError):
        text = f"DVC's table of busy files {table} cannot be read, and no dvc starts"
        yield Finding("locks", "fault", text, f"rm {table}")
        return
    for pid in sorted(pids):
        try:
            process = psutil.Process(pid)
            if not is_dvc(process):
                text = f"DVC takes files for busy by process {pid}, which is no dvc ({_words(process)})"
                yield Finding("locks", "fault", text, f"rm {table}  # while no dvc runs; 'mlml repro' does it, too")
        except psutil.NoSuchProcess:
            text = f"a dvc that was killed (process {pid}) left files marked as busy; the next dvc frees them"
            yield Finding("locks", "note", text)


def _holders() -> dict[tuple[int, int, int], int]:
    """(device, inode) of every file that is locked as a whole -> process that holds it, as the kernel says."""
    found = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and int(words[4]) > 0:
                major, minor, inode = words[5].split(":")
                found[int(major, 16), int(minor, 16), int(inode)] = int(words[4])
    return found


def _is_orphan(process: psutil.Process, root: Path) -> bool:
    """Whether it is a stage of this project that `dvc` started, and nothing but shells is above it any more."""
    words = process.cmdline()
    is_stage = any(
        before == "-m" and (word == "stages" or word.startswith("stages."))
        for before, word in itertools.pairwise(words)
    )
    if not is_stage or not Path(process.cwd()).is_relative_to(root.resolve()):
        return False
    if "DVC_STAGE" not in process.environ():
        return False  # started by hand
    above = [other for other in process.parents() if other.name() not in _SHELLS]
    return not above or above[0].pid == 1 or above[0].name() == "systemd"


def _words(process: psutil.Process) -> str:
    text = " ".join(process.cmdline()) or process.name()
    return text if len(text) <= 80 else f"{text[:77]}..."
