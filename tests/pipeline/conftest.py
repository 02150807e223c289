"""Projects for the pipeline's tests, with one shared Prefect server."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import prefect_store
import pytest
from project import Project

from stages import _servers


@pytest.fixture(scope="package")
def environment(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Environment of every project, with one Prefect server for all of them."""
    home = tmp_path_factory.mktemp("servers")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "DVC_", "GIT_"))}
    identity = {
        f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    clean |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "DVC_NO_ANALYTICS": "1", **identity}
    clean["PATH"] = f"{Path(sys.executable).parent}:{clean['PATH']}"
    before = dict(os.environ)
    try:
        os.environ.pop("PREFECT_API_URL", None)
        prefect_store.seed(home)
        url = _servers.ensure_prefect(home)
        assert url is not None
        yield {**clean, "PREFECT_API_URL": url}
    finally:
        os.environ.clear()
        os.environ.update(before)
        _servers.stop(home)


@pytest.fixture(scope="module")
def project(tmp_path_factory, environment) -> Project:
    return Project(tmp_path_factory.mktemp("project"), environment)
