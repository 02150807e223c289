"""Where MLflow keeps runs: the project's own sqlite file, or the server that MLFLOW_TRACKING_URI names.

mlflow takes more than a second to import, so it is imported inside the functions that need it.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mlml.tracking import sqlite_store
from mlml.tracking.run import Notes, Record, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

REQUEST_SECONDS = 10

NESTED_IN = "mlflow.parentRunId"
"""Tag by which MLflow nests a run in another."""


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI if it is set, else the sqlite file of the project in `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / '.mlml' / 'mlflow.db'}"


def prepare_store(uri: str) -> None:
    """Make the tables of a sqlite store, or migrate those of an older MLflow; a server or database is left alone.

    Any number of processes may call this at once: one does it, the others wait.

    Raises:
        TrackingError: it cannot be done; the message names the way out.
    """
    path = sqlite_path(uri)
    if path is not None:
        _be_quiet()
        sqlite_store.prepare(path)


def connect(uri: str) -> "MlflowClient":
    """Return a client; a server is not asked yet."""
    _be_quiet()
    prepare_store(uri)
    from mlflow import MlflowClient

    return MlflowClient(uri)


def warm_up(uri: str) -> None:
    """Import what sending to `uri` will need, so that the first sending does not wait for it."""
    _be_quiet()
    import mlflow

    assert mlflow.MlflowClient
    if sqlite_path(uri) is not None:
        from mlflow.store.tracking import sqlalchemy_store

        assert sqlalchemy_store.SqlAlchemyStore


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """Find an experiment by name, or make it.

    Raises:
        TrackingError: the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        path = sqlite_path(uri)
        location = (path.parent / "artifacts" / quote(name, safe="")).as_uri() if path is not None else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process made it in between
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        restore = f"mlflow experiments restore -x {found.experiment_id}"
        raise TrackingError(f"MLflow experiment {name!r} was deleted; to bring it back: {restore}")
    return str(found.experiment_id)


def find_runs(uri: str, tags: Mapping[str, str]) -> list[Any]:
    """Return the MLflow runs, of any experiment, that carry all these tags, newest first."""
    client = connect(uri)
    experiments, token = [], None
    while True:
        page = client.search_experiments(page_token=token)
        experiments += [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            break
    runs: list[Any] = []
    while True:
        page = client.search_runs(experiments, tag_filter(tags), page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def tag_filter(tags: Mapping[str, str]) -> str:
    """Write MLflow's search expression for runs that carry all these tags."""
    return " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items())


def mlflow_ids(folder: Path) -> tuple[str, str] | None:
    """(experiment id, run id) of the MLflow run of a run's folder, or None while MLflow has none."""
    record, notes = Record.read(folder), Notes.read(folder)
    if record is None or notes is None or notes.record != record.id:
        return None
    return notes.experiment_id, notes.run_id


def run_url(base_url: str, experiment_id: str, run_id: str) -> str:
    """Address of a run in the UI that is served at `base_url`."""
    return f"{base_url.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def _quoted(value: str) -> str:
    return f"'{value}'" if "'" not in value else f'"{value}"'


def sqlite_path(uri: str) -> Path | None:
    """File of a sqlite store; None for a server or another database."""
    path = uri.removeprefix("sqlite:///")
    return Path(path).resolve() if path != uri and path and path != ":memory:" else None


def _be_quiet() -> None:
    """Set what MLflow reads from the environment; before its import, for some of it is read only then."""
    environment = os.environ
    # a request that MLflow repeats by itself may be done twice; the sender asks what the server has, then repeats
    environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    environment.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
    environment.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    environment.setdefault("DO_NOT_TRACK", "true")
    environment.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    environment.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # what goes wrong is told once, by the sender
    environment.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in environment.get(name, "").split(",") if host]
        environment[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
