"""What nothing refers to any more, and its removal. What is in doubt stays.

A run's folder stays when a declared stage would take it up, dvc.lock names it, a process has it open, it is the newest
unfinished one of a declared stage, or MLflow does not have all of it. A run at MLflow stays when its folder does, when
dvc.lock in any commit, branch or experiment names it, or when it is not of this project's own store.
"""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import psutil

from mlml.tracking.run import ALIVE_LOCK, Record, TrackingError, lock_file
from mlml.tracking.sender import is_sent
from pipelines.references import References, git

Kind = Literal["run folder", "temporary workspace", "MLflow run", "remains"]

_KEY = re.compile(r"[0-9a-f]{16}")
_STAGE_LOCK = "lock"  # of stages/_life.py


@dataclass(frozen=True)
class Item:
    """A thing to remove.

    Attributes:
        path: of a folder or file; for a run at MLflow that of its artifacts, if they lie on this machine.
        about: what a person would know it by.
        run_id: of a run at MLflow.
    """

    kind: Kind
    about: str
    size: int
    path: Path | None = None
    run_id: str = ""


@dataclass
class Found:
    """What can be removed, and why other things stay.

    Attributes:
        kept: sentences.
    """

    items: list[Item] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def run_folders(root: Path, referred: References, unsent: bool) -> Found:
    """Find folders of run records and checkpoints under .mlml/runs.

    Args:
        root: the project.
        referred: what refers to runs.
        unsent: take those, too, of which MLflow does not have everything.
    """
    found, waiting = Found(), 0
    for stage in sorted(path for path in (root / ".mlml" / "runs").glob("*") if path.is_dir()):
        folders = [path for path in sorted(stage.iterdir()) if _KEY.fullmatch(path.name) and path.is_dir()]
        records = {path: _records(path) for path in folders}
        declared = referred.declared.get(stage.name, "")
        resumable = _newest_unfinished(records) if stage.name in referred.declared else None
        for path, runs in records.items():
            if declared is None or path.name in (declared, *referred.locked) or path == resumable:
                continue
            if runs is None:
                found.kept.append(f"{path.relative_to(root)}: its record cannot be read")
            elif is_open(path):
                found.kept.append(f"{path.relative_to(root)}: a process works on it")
            elif not unsent and not all(is_sent(folder) for folder in runs):
                waiting += 1
            else:
                found.items.append(Item("run folder", _described(path, root, runs), size_of(path), path))
    if waiting:
        found.kept.append(
            f"{waiting} run folders of which MLflow does not have everything; 'mlml sync' sends it, --unsent takes them"
        )
    return found


def temporary_workspaces(root: Path) -> Found:
    """Find what cancelled isolated runs left, and worktrees of this project's own, in which no process works.

    With them go patches, as 'mlml why --reproduce' writes them, whose worktree was removed or never made.
    """
    found = Found()
    standalone = root / ".dvc" / "tmp" / "exps" / "standalone"
    places = [path for path in sorted(standalone.glob("tmp*")) if path.is_dir()]
    places += [path for path in _worktrees(root) if path.is_relative_to(root.resolve() / ".mlml")]
    patches = sorted((root / ".mlml" / "worktrees").glob("*.patch"))
    places += [path for path in patches if not path.with_name(path.name.removesuffix(".patch")).exists()]
    if not places:
        return found
    busy = busy_places(root)
    for path in places:
        shown = path.resolve().relative_to(root.resolve())
        if path.resolve() in busy:
            found.kept.append(f"{shown}: process {busy[path.resolve()]} works there")
        elif root.resolve() in busy:
            found.kept.append(f"{shown}: a dvc or mlml process ({busy[root.resolve()]}) may be about to work there")
        else:
            found.items.append(Item("temporary workspace", str(shown), size_of(path), path))
    return found


def remains(root: Path) -> Found:
    """Find what an earlier removal, killed in the middle, left."""
    left = sorted((root / ".mlml" / "garbage").glob("*"))
    return Found([Item("remains", str(path.relative_to(root)), size_of(path), path) for path in left])


def remove(root: Path, item: Item) -> bool:
    """Remove a folder; false when a process has begun to work in it.

    Raises:
        OSError: it cannot be removed.
    """
    assert item.path is not None
    if item.kind == "run folder":
        return _remove_run_folder(root, item.path)
    if item.kind == "temporary workspace":
        if {item.path.resolve(), root.resolve()} & set(busy_places(root)):
            return False
        if (item.path / ".git").is_file():  # a worktree, of which git knows
            return _forget_worktree(root, item.path)
    _delete(root, item.path)
    return True


def is_open(folder: Path) -> bool:
    """Whether a process has a run of this folder, or of one nested in it, open, or works on the stage."""
    return any(_held(path) for path in _locks(folder))


def size_of(path: Path) -> int:
    """Bytes that a folder takes on the disk; a file that has several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for file in [path, *_inside(path)]:
        with contextlib.suppress(OSError):  # it went away in between
            status = file.lstat()
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total


def busy_places(root: Path) -> dict[Path, int]:
    """Folders of the project that processes work in -> one of these; the project's own if a dvc or mlml is there."""
    root = root.resolve()
    found: dict[Path, int] = {}
    mine = {process.pid for process in [psutil.Process(), *psutil.Process().parents()]}
    for process in psutil.process_iter():
        try:
            place, words = Path(process.cwd()), process.cmdline()
        except (psutil.Error, OSError):
            continue
        if process.pid in mine or not place.is_relative_to(root):
            continue
        for folder in (place, *place.parents):
            if folder == root:
                break
            found[folder] = process.pid
        if any(Path(word).name in ("dvc", "mlml", "pipelines.cli") for word in words[:4]):
            found[root] = process.pid
    return found


def _inside(folder: Path) -> Iterator[Path]:
    """Files and folders in a folder; one that goes away in between is passed over, which `Path.rglob` cannot do."""
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in [*folders, *files])


def _records(folder: Path) -> list[Path] | None:
    """Folders of the runs in a run's folder; None when one of their records cannot be read."""
    try:
        found = [path.parent for path in sorted(_inside(folder)) if path.name == Record.FILE]
        for path in found:
            Record.read(path)
            is_sent(path)
    except (OSError, ValueError, TypeError, TrackingError):
        return None
    return found


def _newest_unfinished(records: Mapping[Path, list[Path] | None]) -> Path | None:
    """The run that a stage would go on with, if its files come back to what they were."""
    found: dict[Path, int] = {}
    for path, runs in records.items():
        record = Record.read(path) if runs else None
        if record is not None and record.status != "FINISHED":
            found[path] = record.opened
    return max(found, key=lambda path: found[path], default=None)


def _described(path: Path, root: Path, runs: list[Path]) -> str:
    record = Record.read(path) if runs else None
    return f"{path.relative_to(root)}, {record.status.lower() if record else 'without a run'}"


def _locks(folder: Path) -> Iterator[Path]:
    if (folder / _STAGE_LOCK).exists():
        yield folder / _STAGE_LOCK
    yield from (path for path in _inside(folder) if path.name == ALIVE_LOCK)


def _held(path: Path) -> bool:
    lock = lock_file(path, 0)
    if lock is not None:
        lock.close()
    return lock is None


def _remove_run_folder(root: Path, folder: Path) -> bool:
    with contextlib.ExitStack() as held:
        for path in _locks(folder):
            lock: BinaryIO | None = lock_file(path, 0)
            if lock is None:
                return False
            held.enter_context(lock)
        if folder.parent.name.startswith("search@"):
            _forget_study(f"{folder.parent.name}/{folder.name}")
        _delete(root, folder)
    with contextlib.suppress(OSError):  # others are in it
        folder.parent.rmdir()
    return True


def _forget_study(name: str) -> None:
    """Remove the study of a search that is over from the database, if there is one; the journal is in the folder."""
    from mlml.search._storage import StorageError, forget

    try:
        forget(name)
    except StorageError as error:
        raise OSError(str(error)) from None


def _delete(root: Path, path: Path) -> None:
    """Take a folder away at once, so that a kill leaves no half of it where it is looked for, and then to pieces."""
    if path.is_file():
        path.unlink()
        return
    aside = root / ".mlml" / "garbage" / uuid.uuid4().hex
    aside.parent.mkdir(parents=True, exist_ok=True)
    if path.parent == aside.parent:
        aside = path
    else:
        path.rename(aside)
    shutil.rmtree(aside)
    with contextlib.suppress(OSError):
        aside.parent.rmdir()


def _worktrees(root: Path) -> list[Path]:
    """Worktrees of the repository, but those that were locked, as by 'git worktree lock', to keep them."""
    listed = (git(root, "worktree", "list", "--porcelain") or b"").decode()
    blocks = [block.splitlines() for block in listed.split("\n\n") if block.strip()]
    return [
        Path(lines[0].removeprefix("worktree "))
        for lines in blocks
        if not any(line.split(" ")[0] in ("locked", "prunable") for line in lines)
    ]


def _forget_worktree(root: Path, path: Path) -> bool:
    _delete(root, path)
    git(root, "worktree", "prune")
    return True
