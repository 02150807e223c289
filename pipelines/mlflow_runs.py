"""Runs at MLflow that nothing refers to, and their removal with their artifacts."""

import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlml.tracking import store
from pipelines.garbage import Found, Item, size_of
from pipelines.references import References

AT_ONCE = 200
"""Runs that one call of 'mlflow gc' removes; a command line has an end."""


def unreferred_runs(root: Path, referred: References, keys_that_stay: Collection[str], shared: bool) -> Found:
    """Find runs whose key nothing names.

    Args:
        root: the project.
        referred: what refers to runs.
        keys_that_stay: of run folders that are not removed.
        shared: look also into a store that is not this project's own file.
    """
    uri = store.tracking_uri(root)
    path = store.sqlite_path(uri)
    if path is not None and not path.exists():
        return Found()
    if not shared and (path is None or not path.is_relative_to(root.resolve() / ".mlml")):
        return Found(kept=[f"runs at {uri}, which others may use; --shared looks there, too"])
    if referred.doubt:
        return Found(kept=[f"runs at MLflow: what refers to them cannot be told, since {referred.doubt}"])
    wanted = {*referred.everywhere, *keys_that_stay}
    client = store.connect(uri)
    registered = {version.run_id for version in _pages(client.search_model_versions)}
    found = Found()
    for run in _runs(client):
        tags = run.data.tags
        key = tags.get("dvc.key")
        keeps = key is None or key in wanted or run.info.run_id in registered or run.info.status == "RUNNING"
        if keeps or tags.get("dvc.exp") in referred.experiments:
            continue
        artifacts = _folder(run.info.artifact_uri)
        about = f"{tags.get('mlflow.runName', '')}, key {key}, commit {tags.get('git.commit', '')[:7] or 'none'}"
        size = size_of(artifacts) if artifacts is not None and artifacts.exists() else 0
        found.items.append(Item("MLflow run", about, size, artifacts, run.info.run_id))
    return found


def remove_runs(root: Path, items: Sequence[Item]) -> None:
    """Delete runs; from a database for good, with their artifacts, at a server as its own page does.

    Raises:
        OSError: 'mlflow gc' failed; the runs are deleted, and what they take on the disk is not freed.
    """
    uri = store.tracking_uri(root)
    client = store.connect(uri)
    for item in items:
        client.delete_run(item.run_id)
    if urlsplit(uri).scheme in ("http", "https"):
        return
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    for first in range(0, len(items), AT_ONCE):
        ids = ",".join(item.run_id for item in items[first : first + AT_ONCE])
        command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--run-ids", ids]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"'mlflow gc' failed: {done.stderr.strip().splitlines()[-1:]}")


def _runs(client: Any) -> Iterator[Any]:
    experiments = [experiment.experiment_id for experiment in _pages(client.search_experiments)]
    if experiments:
        yield from _pages(lambda **page: client.search_runs(experiments, max_results=1000, **page))


def _pages(search: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _folder(uri: str) -> Path | None:
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return None
    return Path(url2pathname(parts.path)) if parts.scheme else Path(uri)
