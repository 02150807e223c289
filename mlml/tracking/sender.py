"""Sending one recorded run to MLflow, each point exactly once.

The server is the truth: the first time that a sender meets a run it asks what MLflow has of it, and a point whose step
is not above the last step of its metric there is not sent. A loop that goes on from a checkpoint writes the same points
again, so nothing is lost by that; and a kill between sending and noting does no harm, since nothing is noted.
"""

import json
import logging
import math
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlml.tracking import store
from mlml.tracking.run import (
    ALIVE_LOCK,
    OUTBOX,
    POINTS,
    SEND_LOCK,
    SENDING,
    Notes,
    Record,
    Status,
    TrackingError,
    lock_file,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

RECORD_TAG = "mlml.record"
UNREACHABLE, BUSY = "not reachable", "another process is sending this run"
MAX_PARAM, MAX_TAG = 6000, 8000  # characters of a value


class SyncResult(NamedTuple):
    """What became of one run folder.

    Attributes:
        points, artifacts: how many were sent by this call.
        fault: why not all of it was sent; None when MLflow has all that there is.
    """

    folder: Path
    run_id: str | None
    points: int = 0
    artifacts: int = 0
    fault: str | None = None


@dataclass
class _AtServer:
    """What MLflow has of a run."""

    run_id: str
    status: str
    deleted: bool
    params: dict[str, str]
    tags: dict[str, str]
    datasets: set[tuple[str, str]]
    steps: dict[str, int]  # last of each metric

    @classmethod
    def of(cls, run: Any) -> "_AtServer":
        inputs = run.inputs.dataset_inputs if run.inputs is not None else []
        return cls(
            run.info.run_id,
            run.info.status,
            run.info.lifecycle_stage == "deleted",
            dict(run.data.params),
            dict(run.data.tags),
            {(i.dataset.name, i.dataset.digest) for i in inputs},
            {metric.key: metric.step for metric in run.data.to_proto().metrics},
        )


class _Point(NamedTuple):
    name: str
    step: int
    value: float
    time: int


class _Tail:
    """Reads a points file that grows, and that a loop may cut back and write again from there."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset, self.last_line = path, 0, b""

    def read(self) -> list[_Point]:
        """Return the points of whole lines since the last call, or from the beginning if what was read has changed."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset - len(self.last_line))
            if file.read(len(self.last_line)) != self.last_line:
                self.offset, self.last_line = 0, b""
            file.seek(self.offset)
            content = file.read()
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        points = [self._point(line) for line in lines]
        if lines:
            self.offset, self.last_line = self.offset + sum(map(len, lines)), lines[-1]
        return points

    def _point(self, line: bytes) -> _Point:
        try:
            point = json.loads(line)
            value = math.nan if point["value"] is None else float(point["value"])
            return _Point(point["name"], int(point["step"]), value, int(point["time"]))
        except (ValueError, KeyError, TypeError):
            raise TrackingError(
                f"{self.path}: not a metric point: {line[:60]!r}; remove the line to send the others"
            ) from None


class Sender:
    """Sends one run folder; remembers what MLflow has as long as nobody else sends it."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri, self.id = folder, uri, uuid.uuid4().hex
        self.tail = _Tail(folder / POINTS)
        self.known: _AtServer | None = None

    def send(self, wait_seconds: float = 5.0) -> SyncResult:
        try:
            lock = lock_file(self.folder / SEND_LOCK, wait_seconds)
            if lock is None:
                return SyncResult(self.folder, None, fault=BUSY)
            with lock:
                return self._send()
        except Exception as error:
            self.known = None
            logger.debug("sync of %s", self.folder, exc_info=True)
            return SyncResult(self.folder, None, fault=reason(error))

    def _send(self) -> SyncResult:
        record, status = _read(self.folder)  # before the points are read: once finished, no point follows
        notes = Notes.read(self.folder)
        if notes is not None and notes.record == record.id and notes.done == [record.opened, status]:
            return SyncResult(self.folder, notes.run_id)
        client = store.connect(self.uri)
        if self.known is None or notes is None or (notes.record, notes.sender) != (record.id, self.id):
            notes = self._meet(client, record, notes)
        assert self.known is not None
        points = artifacts = 0
        if not self.known.deleted:  # by hand, at MLflow: then it stays deleted
            self._describe(client, record, status)
            points, artifacts = self._send_points(client), self._send_artifacts(client)
            if status != "RUNNING":
                client.set_terminated(notes.run_id, status, record.end or _last_sign(self.folder))
                self.known.status = status
        if status != "RUNNING":
            notes.done = [record.opened, status]
            notes.write(self.folder)
        return SyncResult(self.folder, notes.run_id, points, artifacts)

    def _meet(self, client: "MlflowClient", record: Record, notes: Notes | None) -> Notes:
        """Find the MLflow run of a record, or make it, and learn what it has."""
        from mlflow.entities import ViewType
        from mlflow.exceptions import MlflowException

        run: Any = None
        if notes is not None and notes.record == record.id:
            try:
                run = client.get_run(notes.run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        if run is None:  # a run may be there although it is not noted
            experiment = store.experiment_id(client, self.uri, record.experiment)
            wanted = store.tag_filter({RECORD_TAG: record.id})
            found = client.search_runs([experiment], wanted, run_view_type=ViewType.ALL)
            run = found[0] if found else self._create(client, record, experiment)
        self.known, self.tail = _AtServer.of(run), _Tail(self.folder / POINTS)
        notes = Notes(record.id, self.id, run.info.experiment_id, run.info.run_id)
        notes.write(self.folder)
        return notes

    def _create(self, client: "MlflowClient", record: Record, experiment: str) -> Any:
        tags = {RECORD_TAG: record.id}
        if record.parent is not None:
            parent = (self.folder / record.parent).resolve()
            if (above := Record.read(parent)) is None or above.id != record.parent_id:
                parent = parent / f"attempt_{record.parent_id}"
            result = Sender(parent, self.uri).send()
            if result.run_id is None:
                raise TrackingError(result.fault or UNREACHABLE)
            tags[store.NESTED_IN] = result.run_id
        return client.create_run(experiment, start_time=record.start, tags=tags, run_name=record.name)

    def _describe(self, client: "MlflowClient", record: Record, status: Status) -> None:
        """Send status, params, tags and data sets that MLflow does not have."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        known = self.known
        assert known is not None
        if status == "RUNNING" != known.status:
            client.update_run(known.run_id, status="RUNNING")
            known.status = "RUNNING"
        params = {k: v[:MAX_PARAM] for k, v in record.params.items() if k not in known.params}
        tags = {k: v[:MAX_TAG] for k, v in record.tags.items() if v[:MAX_TAG] != known.tags.get(k)}
        if params or tags:
            client.log_batch(
                known.run_id,
                params=[Param(*pair) for pair in params.items()],
                tags=[RunTag(*pair) for pair in tags.items()],
            )
        known.params |= params
        known.tags |= tags
        for dataset in record.datasets:
            key = (dataset["name"], dataset["digest"])
            if key not in known.datasets:
                entity = Dataset(*key, source_type="local", source=json.dumps({"uri": dataset["source"]}))
                context = [InputTag("mlflow.data.context", dataset["context"])]
                client.log_inputs(known.run_id, [DatasetInput(entity, context)])
                known.datasets.add(key)

    def _send_points(self, client: "MlflowClient") -> int:
        from mlflow.entities import Metric

        assert self.known is not None
        steps, new = self.known.steps, []
        for point in self.tail.read():
            if point.name not in steps or point.step > steps[point.name]:
                steps[point.name] = point.step
                new.append(Metric(point.name, point.value, point.time, point.step))
        if new:
            client.log_batch(self.known.run_id, metrics=new)  # MLflow's client cuts it into requests, in this order
        return len(new)

    def _send_artifacts(self, client: "MlflowClient") -> int:
        """Send the files of the outbox. A file leaves it before it is sent, for a newer one may take its place."""
        assert self.known is not None
        outbox, sending = self.folder / OUTBOX, self.folder / SENDING
        count = 0
        for newer in (False, True):  # first what an earlier process was about to send
            if newer:
                for file in [path for path in outbox.rglob("*") if path.is_file()]:
                    target = sending / file.relative_to(outbox)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    file.replace(target)
            files = [path for path in sending.rglob("*") if path.is_file()]
            if files:
                client.log_artifacts(self.known.run_id, str(sending))
            if sending.exists():
                shutil.rmtree(sending)
            count += len(files)
        return count


def is_sent(folder: Path) -> bool:
    """Whether MLflow has all of the run in `folder`, and its end."""
    record, status = _read(folder)
    notes = Notes.read(folder)
    return notes is not None and (notes.record, notes.done) == (record.id, [record.opened, status])


def _read(folder: Path) -> tuple[Record, Status]:
    """The record and its status, which is KILLED if it says RUNNING and no process has it open."""
    record = Record.read(folder)
    if record is not None and record.status == "RUNNING":
        lock = lock_file(folder / ALIVE_LOCK, 0)
        if lock is not None:
            lock.close()
            record = Record.read(folder)  # it may have ended just before the lock was tried
            if record is not None and record.status == "RUNNING":
                return record, "KILLED"
    if record is None:
        raise TrackingError(f"{folder}: holds no run")
    return record, record.status


def _last_sign(folder: Path) -> int:
    """When a run that was killed last wrote anything, in ms."""
    files = [folder / Record.FILE, folder / POINTS]
    return int(max(file.stat().st_mtime for file in files if file.exists()) * 1000)


def reason(error: Exception) -> str:
    """One line about what went wrong."""
    text = str(error)
    if isinstance(error, ConnectionError | TimeoutError) or text.startswith("API request to"):
        return UNREACHABLE
    return text.splitlines()[0][:300] if text else type(error).__name__
