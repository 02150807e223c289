"""What Prefect's pages offer to run: `reproduce`, `search` and `sweep`, over the same coordinator as `mlml repro`.

Prefect starts each run in a process of its own, with the workspace as its working directory. The names, types and
docstrings of the parameters are the forms that the pages show; `pipelines.deployments` adds what is declared.
"""

import ctypes
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from prefect import Flow, flow, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.concurrency import _leases
from prefect.context import FlowRunContext
from prefect.states import AwaitingRetry
from pydantic import Field, PositiveInt

from mlml import declaration
from mlml.config import DeclarationError
from pipelines import artifact, coordinator, overrides
from pipelines.coordinator import Options
from pipelines.deployments import SERVER
from pipelines.live import summary
from pipelines.stage_tasks import StageTasks
from stages import _servers, _steps
from stages._steps import Steps

logger = logging.getLogger(__name__)

RETRIES = 2
RETRY_SECONDS = 10.0

Override = Annotated[str, Field(pattern=r"^\s*[\w-]+(\.[\w-]+)+\s*=.*\S")]


class StagesFailed(RuntimeError):
    """A run after which something is not up to date; the message names it, and where its log is."""


def schedule_again(flow_run_id: UUID) -> None:
    """Have a run started again whose process died, a limited number of times; it goes on from the checkpoints."""
    with get_client(sync_client=True) as client:
        if client.read_flow_run(flow_run_id).run_count <= RETRIES:
            at = datetime.now(UTC) + timedelta(seconds=RETRY_SECONDS)
            client.set_flow_run_state(flow_run_id, AwaitingRetry(scheduled_time=at), force=True)


def run_again(flow: "Flow[Any, Any]", flow_run: FlowRun, state: "State[Any]") -> None:
    """Prefect calls this when a run has crashed, not when a stage or the declaration is at fault."""
    schedule_again(flow_run.id)


@flow(log_prints=True, persist_result=False, on_crashed=[run_again], name="reproduce")
def reproduce(
    targets: tuple[str, ...] = (),
    overrides: tuple[Override, ...] = (),
    jobs: PositiveInt | None = None,
    force: bool = False,
    keep_going: bool = False,
) -> None:
    """Run what is not up to date, stages that do not depend on each other side by side.

    Args:
        targets: Stages, groups of stages, or experiments. None: everything.
        overrides: Other numbers, each as path=value, such as pretext.simclr.temperature=0.2. With any, the run is an
            isolated experiment, and the workspace stays as it is.
        jobs: Stages at once. None: as many as the cores and GPUs take.
        force: Run stages that are up to date, too. Not with overrides.
        keep_going: After a failure, go on with what does not depend on it. Not with overrides.
    """
    options = Options(targets, jobs, force, keep_going)
    if overrides:
        _run_isolated(_single_values(overrides), options)
    else:
        _run_workspace(options)


@flow(log_prints=True, persist_result=False, on_crashed=[run_again], name="declared search")
def search(name: str, trials: PositiveInt | None = None) -> None:
    """Run a search for better numbers that params.yaml declares.

    Args:
        name: The entry of the section `search`.
        trials: How many. With a number here, the search is an isolated experiment, and the workspace stays as it is.
            None: as declared, in the workspace.
    """
    known = [experiment.name for experiment in declaration.read().family("search")]
    if name not in known:
        raise DeclarationError([f"search.{name}: no such entry is declared (known: {', '.join(known) or 'none'})"])
    options = Options((f"search@{name}",))
    if trials is None:
        _run_workspace(options)
    else:
        _run_isolated({f"search.{name}.trials": [trials]}, options)


@flow(log_prints=True, persist_result=False, on_crashed=[run_again], name="sweep")
def sweep(
    values: dict[str, list[Any]],
    targets: tuple[str, ...] = (),
    jobs: PositiveInt | None = None,
) -> None:
    """Run an isolated experiment for every combination of some values; the workspace stays as it is.

    Args:
        values: Dotted path into params.yaml, and the values to try, such as {"pretext.simclr.temperature": [0.2, 0.5]}.
        targets: Stages, groups of stages, or experiments. None: everything.
        jobs: Experiments at once. None: as many as the cores and GPUs take.
    """
    empty = [path for path, tried in values.items() if not tried]
    if not values or empty:
        raise DeclarationError([f"{path}: has no values to try" for path in empty] or ["values: names no value to try"])
    _run_isolated(values, Options(targets, jobs))


def _run_workspace(options: Options) -> None:
    """Bring the workspace up to date, as `mlml repro` does."""
    folder = _begin()
    result = coordinator.reproduce(folder, declaration.read().threads, options, _within())
    unchanged = result.named("unchanged")
    if unchanged:
        logger.info("up to date already: %s", ", ".join(unchanged))
    artifact.publish(partial(artifact.of_workspace, folder, result))
    if not result.ok:
        raise StagesFailed("\n".join(summary(result)))
    print("\n".join(summary(result)))


def _run_isolated(values: Mapping[str, Sequence[Any]], options: Options) -> None:
    """Run isolated experiments, as `mlml repro --set` does."""
    folder = _begin()
    done = coordinator.run_isolated(folder, declaration.read().threads, options, values, within=_within(isolated=True))
    artifact.publish(partial(artifact.of_experiments, folder, done))
    failed = [f"{one.name} failed with exit code {code}; its log: {one.log}" for one, code in done if code != 0]
    if failed:
        raise StagesFailed("\n".join(failed))


def _single_values(given: Sequence[str]) -> dict[str, list[Any]]:
    """Read `path=value` entries.

    Raises:
        DeclarationError: an entry has several values, which are for a sweep, or a path comes twice.
    """
    values: dict[str, list[Any]] = {}
    for text in given:
        path, found = overrides.parse(text)
        if len(found) > 1:
            raise DeclarationError([f"{path}: must have one value here, a sweep takes several; got {text!r}"])
        if path in values:
            raise DeclarationError([f"{path}: is given twice"])
        values[path] = found
    return values


def _begin() -> Path:
    """Make this process ready to run stages; returns the workspace."""
    folder = Path.cwd()
    if os.environ.pop(SERVER, None) == str(os.getppid()):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: nobody could cancel it any more
    for name in [name for name in os.environ if name.startswith("PREFECT__")]:
        del os.environ[name]  # about this run; a stage is a run of its own
    os.environ.update(_servers.settings(folder))
    _steps.log_to_console()
    # a server that was away has forgotten which run has the place; Prefect would end this one for that
    _leases._handle_lease_renewal_failure = _keep_on  # type: ignore[assignment]
    _make_good_the_missed()
    return folder


def _keep_on(error: BaseException, *_: object) -> None:
    """Take note that another run may begin; the workspace's lock makes it wait."""
    logger.warning("the Prefect server does not hold this run's place any more (%s); it goes on", type(error).__name__)


def _make_good_the_missed() -> None:
    """Let one run of a schedule stand for those that fell due while it, or another, was in the way."""
    from prefect.client.schemas import filters

    context = FlowRunContext.get()
    mine = context.flow_run if context else None
    if mine is None or not mine.auto_scheduled:
        return
    due = filters.FlowRunFilter(
        deployment_id=filters.FlowRunFilterDeploymentId(any_=[mine.deployment_id] if mine.deployment_id else []),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=filters.FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),
    )
    with get_client(sync_client=True) as client:
        missed = [
            run.id
            for run in client.read_flow_runs(flow_run_filter=due)
            if run.auto_scheduled and run.parameters == mine.parameters
        ]
        for identity in missed:
            client.delete_flow_run(identity)
    if missed:
        logger.info("this run stands for %d others of its schedule that fell due in the meantime", len(missed))


def _within(isolated: bool = False) -> coordinator.Within:
    """Return what gives the coordinator the steps of the flow run that this process is."""
    cancelled_by = signal.getsignal(signal.SIGTERM)

    def within(body: Callable[[Steps], None], api: str) -> None:
        # a cancel from the pages counts as one only under Prefect's own handler, and the coordinator has set another
        signal.signal(signal.SIGTERM, cancelled_by)
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        server = _steps._Server(api.rstrip("/"))
        _steps._send_quietly(server)
        steps = Steps(server, str(context.flow_run.id))
        if isolated:
            with StageTasks(steps) as tasks:
                body(tasks)
        else:
            body(steps)

    return within
