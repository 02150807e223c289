"""`mlml up` and `mlml down`: the servers to look at the runs with."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stages import _servers


def up(root: Path) -> None:
    """Start the Prefect and the MLflow server of the project, unless they run, and print their addresses."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        prefect, mlflow = pool.submit(_servers.ensure_prefect, root), pool.submit(_servers.start_mlflow, root)
    for title, address in (("Prefect", prefect.result()), ("MLflow", mlflow.result())):
        print(f"{title + ':':<9}{address.removesuffix('/api') if address else 'not running'}", flush=True)


def down(root: Path) -> None:
    """Stop the servers of the project and print what was done; runs, logs and metrics stay."""
    _servers.stop(root)
