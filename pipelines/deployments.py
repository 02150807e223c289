"""The deployments of a workspace, and the process that serves them: `python -m pipelines.deployments`.

Prefect's own runner polls for runs, scheduled or asked for, and starts each in a process of its own. What is declared
becomes part of the deployments: the targets and searches to choose from, and the schedules.
"""

import argparse
import asyncio
import hashlib
import logging
import os
import socket
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlml import declaration
from mlml.declaration import Declaration
from stages import _lineage, _servers

if TYPE_CHECKING:
    from uuid import UUID

    from prefect import Flow
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.deployments.runner import RunnerDeployment
    from prefect.schedules import Schedule

logger = logging.getLogger(__name__)

POLL_SECONDS = 2
MISSED_POLLS = 30
AGAIN_SECONDS = 10.0

SERVER = "MLML_DEPLOYMENTS_PID"
"""Environment variable with the process that serves; a run ends with it."""


def names(root: Path) -> dict[str, str]:
    """Name of each deployment; on a server that other workspaces use, too, the name tells them apart."""
    kinds = ("reproduce", "search", "sweep")
    if _servers.is_own(root, os.environ.get("PREFECT_API_URL", "")):
        return {kind: kind for kind in kinds}
    place = f"{socket.gethostname()}-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:6]}"
    return {kind: f"{kind}-{place}" for kind in kinds}


def declare(root: Path, declared: Declaration) -> "list[RunnerDeployment]":
    """Return the deployments of a workspace, as its declaration stands."""
    from pipelines import flows

    named = names(root)
    targets = declared.targets()
    searches = [experiment.name for experiment in declared.family("search")]
    reproduce = _deployment(flows.reproduce, named["reproduce"], root, _schedules(declared))
    search = _deployment(flows.search, named["search"], root, [])
    sweep = _deployment(flows.sweep, named["sweep"], root, [])
    for deployment in (reproduce, sweep):
        _form(deployment)["targets"]["items"] = {"type": "string", "enum": targets}
    if searches:
        _form(search)["name"]["enum"] = searches
    return [reproduce, search, sweep]


async def apply(root: Path, declared: Declaration) -> "list[UUID]":
    """Bring the deployments on the server up to date with the declaration; returns their ids."""
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound

    deployments = declare(root, declared)
    identities = [await deployment.aapply() for deployment in deployments]
    limit = f"{root.resolve().name}: one run at a time ({deployments[0].name})"
    # Prefect's own calls give each deployment a limit of its own, and keep schedules that are no longer declared
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name(limit, 1)
        shared = await client.read_global_concurrency_limit_by_name(limit)
        for deployment, identity in zip(deployments, identities, strict=True):
            change = {"global_concurrency_limit_id": str(shared.id)}
            (await client._client.patch(f"/deployments/{identity}", json=change)).raise_for_status()
            with suppress(ObjectNotFound):
                await client.delete_global_concurrency_limit_by_name(f"deployment:{identity}")
            declared_now = {schedule.slug for schedule in deployment.schedules or []}
            for schedule in await client.read_deployment_schedules(identity):
                if schedule.slug not in declared_now:
                    await client.delete_deployment_schedule(identity, schedule.id)
                    await _forget_runs(client, identity, schedule.id)
    return identities


async def _forget_runs(client: "PrefectClient", deployment: "UUID", schedule: "UUID") -> None:
    """Remove the runs that a schedule has planned and that have not begun; Prefect removes the future ones only."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    planned = await client.read_flow_runs(
        flow_run_filter=filters.FlowRunFilter(
            deployment_id=filters.FlowRunFilterDeploymentId(any_=[deployment]),
            state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        )
    )
    for run in planned:
        if run.auto_scheduled and run.created_by is not None and run.created_by.id == schedule:
            await client.delete_flow_run(run.id)


def main() -> None:
    """Serve the deployments of the working directory until SIGTERM, which cancels what runs."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.deployments", description=main.__doc__)
    for name in ("--api", "--host", "--port"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    root = _lineage.store_root()
    health = {
        "HOST": options.host,
        "PORT": options.port,
        "ENABLE": "true",
        "MISSED_POLLS_TOLERANCE": str(MISSED_POLLS),
        "LOG_LEVEL": "critical",  # asked before its first poll, it stumbles over that, at length
    }
    # Prefect reads these when it is imported
    os.environ.update(
        _servers.settings(root)
        | {f"PREFECT_RUNNER_SERVER_{key}": value for key, value in health.items()}
        | {"PREFECT_API_URL": options.api, "PREFECT_RUNNER_POLL_FREQUENCY": str(POLL_SECONDS)}
        | {SERVER: str(os.getpid())}
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each poll
    deadline = time.monotonic() + AGAIN_SECONDS
    while True:
        try:
            asyncio.run(_serve(root, declaration.read()))
        except Exception as error:
            if time.monotonic() < deadline:
                raise  # it never served; whoever started it shows the log
            logger.error("serving stopped (%s: %s); trying again", type(error).__name__, error)
            time.sleep(AGAIN_SECONDS)  # the Prefect server is away for longer than its client bears
        else:
            return


async def _serve(root: Path, declared: Declaration) -> None:
    """Serve until SIGTERM."""
    from pipelines.patient_runner import PatientRunner

    # while nobody serves, schedules pause: else every run that was missed would start at the next `mlml up`
    runner = PatientRunner(name=f"mlml {root.resolve().name}", pause_on_shutdown=True, prefetch_seconds=0)
    for deployment in declare(root, declared):
        await runner.aadd_deployment(deployment)
    await _settle_abandoned(await apply(root, declared))
    try:
        await runner.start()
    except Exception:
        if not runner.stopping:  # else it is what an outage before left behind
            raise


async def _settle_abandoned(deployments: "list[UUID]") -> None:
    """Mark runs as crashed whose processes ended without saying so, as when the machine went down; they run again."""
    from prefect import get_client
    from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Cancelled, Crashed

    from pipelines.flows import schedule_again

    async with get_client() as client:
        runs: list[FlowRun] = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state={"type": {"any_": [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]}}
            ),
            deployment_filter=DeploymentFilter(id={"any_": deployments}),
        )
        for run in runs:
            message = "The process that served this run ended."
            if run.state_type == StateType.CANCELLING:
                await client.set_flow_run_state(run.id, Cancelled(message=message), force=True)
            else:
                await client.set_flow_run_state(run.id, Crashed(message=message), force=True)
                await asyncio.to_thread(schedule_again, run.id)


def _deployment(flow: "Flow[..., Any]", name: str, root: Path, schedules: "list[Schedule]") -> "RunnerDeployment":
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    deployment = RunnerDeployment.from_flow(
        flow,
        name,
        description=f"{(flow.description or '').splitlines()[0]}\n\nIn {root.resolve()}",
        tags=["mlml", root.resolve().name],
        schedules=schedules,
        paused=False,
        concurrency_limit=1,  # `apply` makes it one for all three
        entrypoint_type=EntrypointType.MODULE_PATH,  # from the working directory, as its files are when a run starts
    )
    for key, field in _form(deployment).items():
        field["title"] = key.replace("_", " ").capitalize()
    return deployment


def _form(deployment: "RunnerDeployment") -> dict[str, Any]:
    """Schema of each parameter, which the pages show as a field of a form and the server checks."""
    return deployment._parameter_openapi_schema.properties


def _schedules(declared: Declaration) -> "list[Schedule]":
    from prefect.schedules import Cron, Interval

    made = []
    for name, schedule in declared.schedules.items():
        parameters = {"targets": list(schedule.targets)}
        if schedule.cron is not None:
            made.append(Cron(schedule.cron, timezone=schedule.timezone, parameters=parameters, slug=name))
        else:
            every = timedelta(seconds=schedule.interval_seconds or 0)
            made.append(Interval(every, timezone=schedule.timezone, parameters=parameters, slug=name))
    return made


if __name__ == "__main__":
    main()
