"""A machine's offer to run stages: Prefect's own process worker, with the repository as its working directory.

Prefect polls the pool, claims runs, starts a process for each, and reports one that died; `pipelines.stage_flow` is
what the process does.
"""

import asyncio
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from stages import _servers

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

SETTINGS = {
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
    "PREFECT_WORKER_ENABLE_CANCELLATION": "true",
    "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "10",
}


class WorkerError(ValueError):
    """A worker that cannot start; the message names the way out."""


def needs(environment: "os._Environ[str] | dict[str, str]") -> None:
    """See that what is shared with the coordinator is named.

    Raises:
        WorkerError: it is not.
    """
    for name, what in (
        ("PREFECT_API_URL", "the Prefect API that the coordinator uses, such as http://host:4200/api"),
        ("MLFLOW_TRACKING_URI", "the MLflow server or database that all machines write to"),
    ):
        if not environment.get(name):
            raise WorkerError(f"{name} is not set; it must name {what}")


def serve(root: Path, pool: str, name: str, slots: int) -> None:
    """Run stages of a pool until SIGTERM or SIGINT; those that run then are ended, and leave their checkpoints.

    Args:
        root: the worker's clone of the repository.
        pool: name of the work pool, made if it is absent.
        name: of the worker, in Prefect's pages.
        slots: stages at once.

    Raises:
        WorkerError: a name cannot be used.
    """
    needs(os.environ)
    for what, text in (("--pool", pool), ("--name", name)):
        if not text or "/" in text or "%" in text:
            raise WorkerError(f"{what}: must not be empty, nor contain '/' or '%'; got {text!r}")
    if slots < 1:
        raise WorkerError(f"--slots: must be at least 1; got {slots}")
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    # stages are commands that begin with `python`
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    _servers.apply_settings(root)
    asyncio.run(_serve(root.resolve(), pool, name, slots))


async def _serve(root: Path, pool: str, name: str, slots: int) -> None:
    import anyio
    from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it takes the place of Prefect's own, in this process

        class StageWorker(ProcessWorker):
            """Starts every run in the repository, by this interpreter, whatever the pool's template says."""

            async def run(
                self,
                flow_run: "FlowRun",
                configuration: ProcessJobConfiguration,
                task_status: "anyio.abc.TaskStatus[int] | None" = None,
            ) -> ProcessWorkerResult:
                configuration.working_dir = root
                configuration.command = f"{sys.executable} -m prefect.engine"
                configuration._command_configured = True
                return await super().run(flow_run, configuration, task_status)

    worker = StageWorker(work_pool_name=pool, name=name, limit=slots)
    task = asyncio.ensure_future(worker.start(printer=lambda line: print(line, flush=True)))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        print(f"Worker {name!r} stopped", flush=True)
