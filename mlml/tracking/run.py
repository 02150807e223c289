"""The record of a run, local first: everything is written to the run's folder, and `mlml.tracking.sync` sends it.

<folder>/run.json       Record: what the run says of itself; written by the process that runs it
<folder>/points.jsonl   metric points (`mlml.points`)
<folder>/artifacts/     files that MLflow does not have yet; they leave it when they are sent
<folder>/sent.json      Notes: which MLflow run this is; written by whoever sends
<folder>/attempt_<id>/  an earlier, finished run of the same folder that could not be sent before this one began
"""

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Literal, TypeVar

from mlml.points import Points

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
S = TypeVar("S", bound="Stored")

POINTS, OUTBOX, SENDING = "points.jsonl", "artifacts", "sending"
ALIVE_LOCK, SEND_LOCK = "alive.lock", "send.lock"
LOCK_SECONDS = 10.0


class TrackingError(RuntimeError):
    """A run that cannot be recorded or sent; the message names its folder and the way out."""


@dataclass
class Stored:
    """Base of what lies in a run's folder as one JSON file, replaced as a whole at every write."""

    FILE: ClassVar[str]

    @classmethod
    def read(cls: type[S], folder: Path) -> S | None:
        """Return what the folder holds, or None."""
        try:
            text = (folder / cls.FILE).read_text()
        except FileNotFoundError:
            return None
        return cls(**json.loads(text)) if text else None  # empty: the power was cut before it came to the disk

    def write(self, folder: Path, flush: bool = True) -> None:
        """Put this into the folder: a reader, or a kill, meets the old content or the new, nothing between.

        Args:
            folder: of the run.
            flush: wait until a power cut cannot lose it.
        """
        partial = folder / f"{self.FILE}.partial"
        with partial.open("w") as file:
            file.write(json.dumps(vars(self)))
            file.flush()
            if flush:
                os.fsync(file.fileno())
        partial.replace(folder / self.FILE)


@dataclass
class Record(Stored):
    """What a run says of itself. Times are in milliseconds since 1970.

    Attributes:
        id: of this attempt; its MLflow run carries it as the tag "mlml.record", so that it is made once only.
        opened: when the run was last begun or taken up again.
        parent: relative path to the folder of the run that this one is nested in.
        parent_id: id of that run's record.
    """

    FILE = "run.json"

    id: str
    name: str
    experiment: str
    start: int
    opened: int
    end: int | None = None
    status: Status = "RUNNING"
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    datasets: list[dict[str, str]] = field(default_factory=list)
    parent: str | None = None
    parent_id: str | None = None


@dataclass
class Notes(Stored):
    """Which MLflow run a record became. How far it is sent is not noted: the server is asked.

    Attributes:
        record: id of the record that these notes are about.
        sender: who wrote them; another sender asks the server again before it sends anything.
        done: the record's `opened` and status once all of it was sent, else empty.
    """

    FILE = "sent.json"

    record: str
    sender: str
    experiment_id: str
    run_id: str
    done: list[Any] = field(default_factory=list)


class Run:
    """A run of a stage, or one nested in it. Needs no server and never waits for one.

    As a context manager it ends itself: FINISHED, FAILED after an exception, KILLED after an interrupt.
    """

    def __init__(self, folder: Path, record: Record, lock: BinaryIO) -> None:
        self.folder, self.record = folder, record
        self._lock = lock

    @classmethod
    def open(
        cls,
        folder: Path,
        name: str,
        experiment: str,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        parent: Path | None = None,
    ) -> "Run":
        """Begin a run, or take up the one in `folder` that did not finish; both are then one MLflow run.

        A finished run is never changed: its folder is cleared for a new one, and what MLflow does not have of it yet
        is kept aside.

        Args:
            folder: of this run alone; checkpoints may lie in it too.
            name: shown by MLflow.
            experiment: MLflow's; made when it does not exist.
            tags: added to those of a run that is taken up.
            params: may be nested; a run that is taken up keeps the values that it began with.
            parent: folder of the run that this one is nested in, opened before.

        Raises:
            TrackingError: another process has the run open, or `parent` holds no run.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_file(folder / ALIVE_LOCK, LOCK_SECONDS)
        if lock is None:
            raise TrackingError(f"{folder}: another process has this run open; wait for it, or end it")
        record, now = Record.read(folder), _now()
        above = Record.read(parent) if parent is not None else None
        if record is not None and record.status == "FINISHED" and not _was_cut_short(record, above):
            _clear(folder, record)
            record = None
        if record is None:
            record = Record(uuid.uuid4().hex, name, experiment, start=now, opened=now)
        texts = {key: str(value) for key, value in (tags or {}).items()}
        record = replace(
            record,
            opened=now,
            end=None,
            status="RUNNING",
            tags=record.tags | texts,
            params=flatten(params or {}) | record.params,
        )
        if parent is not None:
            if above is None:
                raise TrackingError(f"{parent}: holds no run; open the parent of {folder} first")
            record.parent, record.parent_id = os.path.relpath(parent, folder), above.id
        _drop_half_line(folder / POINTS)
        record.write(folder, flush=parent is None)  # a nested run that is lost in a power cut begins anew
        return cls(folder, record, lock)

    def add_tags(self, tags: Mapping[str, Any]) -> None:
        """Add tags, or change them."""
        self.record.tags |= {key: str(value) for key, value in tags.items()}
        self.record.write(self.folder)

    def log(self, name: str, value: float, step: int = 0) -> None:
        """Append a metric point. The steps of one metric must rise; a step that MLflow has is not sent again."""
        points = Points(self.folder / POINTS)
        points.write(step, {name: value})
        points.close()

    def log_artifact(self, path: Path, artifact_path: str = "") -> None:
        """Keep a copy of a file, or of a folder, as it is now, until MLflow has it under `artifact_path`."""
        inside = Path(artifact_path)
        if inside.is_absolute() or ".." in inside.parts:
            raise ValueError(f"artifact_path: must be a relative path that goes no folder up; got {artifact_path!r}")
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        for file in files:
            target = self.folder / OUTBOX / inside / file.relative_to(path.parent)
            partial = self.folder / "artifact.partial"
            shutil.copyfile(file, partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)

    def log_dataset(self, name: str, digest: str, source: str, context: str = "training") -> None:
        """Say which data the run used.

        Args:
            name: of the data set.
            digest: of its content; MLflow keeps 36 characters.
            source: where the data comes from.
            context: what the run used it for.
        """
        dataset = {"name": name, "digest": digest[:36], "source": source, "context": context}
        if dataset not in self.record.datasets:
            self.record.datasets.append(dataset)
            self.record.write(self.folder)

    def finish(self, status: Status = "FINISHED", tags: Mapping[str, Any] | None = None) -> None:
        """End the run, with some last tags; once ended it stays as it is.

        Call it last, when checkpoints are removed: a run found unfinished is taken up, a finished one is begun anew.
        """
        if self.record.status == "RUNNING":
            self.record.tags |= {key: str(value) for key, value in (tags or {}).items()}
            self.record.end, self.record.status = _now(), status
            # of a nested run at the latest when its parent ends, after it: the end of that waits for the disk
            self.record.write(self.folder, flush=self.record.parent is None)
            self._lock.close()

    def leave(self) -> None:
        """Let another process take the run up and end it."""
        self._lock.close()

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Write nested params as MLflow keeps them: dotted keys, texts."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list | tuple) else str(value)
    return flat


def lock_file(path: Path, wait_seconds: float) -> BinaryIO | None:
    """Lock a file until the returned object is closed or the process ends; None if somebody else keeps it locked."""
    file = path.open("ab")
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                return None
            time.sleep(0.02)
        else:
            return file


def _was_cut_short(record: Record, above: Record | None) -> bool:
    """Whether a finished run is nested in one that was killed while it ended its runs; both are taken up again."""
    if above is None or record.parent_id != above.id or record.end is None:
        return False
    return record.end < above.opened


def _clear(folder: Path, record: Record) -> None:
    """Take a finished run out of `folder`, aside if it is not sent whole. After a kill in between it is done again."""
    lock = lock_file(folder / SEND_LOCK, LOCK_SECONDS)
    if lock is None:
        raise TrackingError(f"{folder}: another process is sending the run that was here; wait for 'mlml sync' to end")
    with lock:
        notes = Notes.read(folder)
        sent = notes is not None and notes.record == record.id and notes.done == [record.opened, record.status]
        aside = folder / f"attempt_{record.id}"
        if not sent:
            aside.mkdir(exist_ok=True)
        for name in (POINTS, OUTBOX, SENDING, Notes.FILE):
            path = folder / name
            if path.exists() and not sent:
                path.rename(aside / name)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if not sent:
            replace(record, parent=record.parent and f"../{record.parent}").write(aside)
        (folder / Record.FILE).unlink()


def _drop_half_line(path: Path) -> None:
    """Remove the line in whose middle an earlier process was killed, so that the next point does not join it."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _now() -> int:
    return int(time.time() * 1000)
