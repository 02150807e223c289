"""`mlml up` and `mlml down`: the servers to look at what runs with, the deployments, and the parent of warm stages."""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlml import declaration
from mlml.config import DeclarationError
from stages import _links, _servers, _warm_start


def up(root: Path) -> None:
    """Start the servers of the project, its deployments and its warm parent, unless they run; print where they are."""
    starts = (_servers.ensure_prefect, _servers.start_mlflow, _servers.start_dashboard)
    with ThreadPoolExecutor(max_workers=len(starts)) as pool:
        api, mlflow, dashboard = pool.map(lambda start: start(root), starts)
    for title, address in (("Prefect", api), ("MLflow", mlflow), ("Optuna", dashboard)):
        print(f"{title + ':':<9}{address.removesuffix('/api') if address else 'not running'}", flush=True)
    _links.write_page(root)  # links in the report lead to the port that MLflow has now
    _warm_start.ensure(root)  # before `_serve` changes the environment, which is to be that of a `dvc repro`
    if api:
        _serve(root, api)


def down(root: Path) -> None:
    """Stop what `up` started and print what was done; runs, logs and metrics stay."""
    _warm_start.stop(root)
    _servers.stop(root)


def _serve(root: Path, api: str) -> None:
    """Serve the deployments as params.yaml declares them now."""
    try:
        declared = declaration.read(root / "params.yaml")
    except DeclarationError as error:
        print(f"Deployments not served: params.yaml: {error.faults[0]} ('mlml check' lists all)", file=sys.stderr)
        return
    started = _servers.serve_deployments(root, api)
    if started is None:
        return
    os.environ.update(_servers.settings(root) | {"PREFECT_API_URL": api})
    from pipelines import deployments

    if not started:
        asyncio.run(deployments.apply(root, declared))
    schedules = ", ".join(declared.schedules) or "none"
    pages = api.removesuffix("/api") + "/deployments"
    names = ", ".join(deployments.names(root).values())
    print(f"Deployments: {names} (schedules: {schedules}): {pages}", flush=True)
