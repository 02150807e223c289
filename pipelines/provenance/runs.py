"""The MLflow runs of the project's stages: asked of MLflow, and read from the records that lie in .mlml/runs."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlml.tracking.run import OUTBOX, Notes, Record
from mlml.tracking.store import NESTED_IN, connect, find_runs, mlflow_ids, tracking_uri
from pipelines.provenance.making import Making, WhyError
from stages._diff import NAME as PATCH
from stages._run import EXPERIMENT


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        id: MLflow's; "" while MLflow does not have it.
        started: in milliseconds since 1970.
        parent: id of the run that it is nested in.
    """

    id: str
    name: str
    status: str
    started: int
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    parent: str | None

    @property
    def commit(self) -> str:
        return self.tags.get("git.commit", "")

    @property
    def dirty(self) -> bool:
        return self.tags.get("git.dirty") == "true"


class Runs:
    """What is known of runs. MLflow is asked for as long as it answers.

    Attributes:
        fault: why MLflow does not answer; None while it does.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.uri = root, tracking_uri(root)
        self.fault: str | None = None
        path = Path(self.uri.removeprefix("sqlite:///"))
        if self.uri.startswith("sqlite:///") and not path.exists():
            self.fault = f"there is no MLflow store at {path}"

    def of(self, making: Making) -> list[Run]:
        """Return the runs of a stage with this key, the newest first; the runs nested in them are left out."""
        found = self._find({"dvc.stage": making.stage, "dvc.key": making.key})
        local = self._local(self._folder(making))
        if local is not None and local.tags["mlml.record"] not in {run.tags.get("mlml.record") for run in found}:
            found.append(local)
        return sorted((run for run in found if run.parent is None), key=lambda run: -run.started)

    def that_wrote(self, path: str, md5: str) -> Run | None:
        """Return the newest finished run of a stage that left this."""
        found = self._find({f"dvc.out.{path}": md5})
        return next((run for run in found if run.parent is None and run.status == "FINISHED"), None)

    def by_id(self, text: str) -> Run:
        """Return the run whose id begins so.

        Raises:
            WhyError: no run's id does, or several do.
        """
        if self.fault is not None:
            raise WhyError(f"{text}: MLflow is needed to find a run, and {self.fault}")
        client = connect(self.uri)
        # what was sent from here is found without a search; MLflow has no search for the beginning of an id
        notes = (Notes.read(path.parent) for path in (self.root / ".mlml" / "runs").rglob(Notes.FILE))
        ids = {note.run_id for note in notes if note is not None and note.run_id.startswith(text)}
        if len(text) == 32:
            ids = {text}
        if not ids:
            found = find_runs(self.uri, {})
            ids = {run.info.run_id for run in found if run.info.run_id.startswith(text)}
        if len(ids) != 1:
            several = f"begins the ids of {len(ids)} runs; write more of it" if ids else "begins the id of no run"
            raise WhyError(f"{text}: {several}")
        try:
            return _run(client.get_run(ids.pop()))
        except Exception as error:
            raise WhyError(f"{text}: MLflow at {self.uri} does not give this run ({type(error).__name__})") from None

    def patch(self, run: Run) -> bytes | None:
        """Return the uncommitted changes that a run was made with, as it kept them; None if it did not."""
        for folder in (self.root / ".mlml" / "runs" / run.tags.get("dvc.stage", "-")).glob("*"):
            record, waiting = Record.read(folder), folder / OUTBOX / PATCH
            if record is not None and record.id == run.tags.get("mlml.record") and waiting.exists():
                return waiting.read_bytes()
        if not run.id or self.fault is not None:
            return None
        client = connect(self.uri)
        if all(file.path != PATCH for file in client.list_artifacts(run.id)):
            return None
        with tempfile.TemporaryDirectory() as scratch:
            return Path(client.download_artifacts(run.id, PATCH, scratch)).read_bytes()

    def _find(self, tags: Mapping[str, str]) -> list[Run]:
        if self.fault is not None:
            return []
        try:
            return [_run(run) for run in find_runs(self.uri, tags)]
        except Exception as error:  # what a store raises depends on its kind
            self.fault = f"MLflow at {self.uri} does not answer ({type(error).__name__})"
            return []

    def _folder(self, making: Making) -> Path:
        return self.root / ".mlml" / "runs" / making.stage / making.key

    def _local(self, folder: Path) -> Run | None:
        record = Record.read(folder)
        if record is None or record.experiment != EXPERIMENT:
            return None
        _, run_id = mlflow_ids(folder) or ("", "")
        tags = {**record.tags, "mlml.record": record.id}
        return Run(run_id, record.name, record.status, record.start, tags, record.params, {}, record.parent_id)


def is_id(text: str) -> bool:
    """Whether a text may be the id of an MLflow run, or begin one."""
    return re.fullmatch(r"[0-9a-f]{4,32}", text) is not None


def _run(found: Any) -> Run:
    tags = dict(found.data.tags)
    return Run(
        id=found.info.run_id,
        name=found.info.run_name,
        status=found.info.status,
        started=found.info.start_time,
        tags=tags,
        parameters=dict(found.data.params),
        metrics=dict(found.data.metrics),
        parent=tags.get(NESTED_IN),
    )
