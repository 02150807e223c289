"""A stage given to a work pool: what it needs is sent, its result brought back, and a dead worker replaced."""

import base64
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from ruamel.yaml import YAML

from mlml.status import VARIABLE as STATUS_VARIABLE
from pipelines.dvc_process import DvcProcess, Ended
from pipelines.flow_run_watch import WatchedRun, insist
from pipelines.lock_file import WorkspaceError
from pipelines.restore_dvc import VARIABLE as REPORTED
from pipelines.slots import THREAD_LIMITS
from stages import _lineage

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

    from pipelines.remote import Pool

CANCEL_SECONDS = 60.0
TRIES = 3
MAX_FILES_BYTES = 256 * 1024


@dataclass(frozen=True)
class Inputs:
    """What a stage reads, and how it reaches a worker.

    Attributes:
        stages: that make some of it, and are done.
        pulled: outputs of these, by the DVC remote.
        sent: outputs of these that DVC does not keep, with the order to run the stage.
    """

    stages: tuple[str, ...]
    pulled: tuple[str, ...]
    sent: tuple[str, ...]


class RemoteStage:
    """Runs one stage on a worker of a pool, again on another if the first dies."""

    def __init__(
        self, pool: "Pool", stage: str, inputs: Inputs, environment: Mapping[str, str], force: bool, log: Path
    ) -> None:
        self.pool, self.stage, self.inputs, self.force, self.log = pool, stage, inputs, force, log
        self.environment = environment
        self._lock = pool.state / "dvc.lock"
        self._flow_run: UUID | None = None
        self._local: DvcProcess | None = None
        self._ending = False
        self._ended = threading.Event()

    def run(self, say: Callable[[str], None]) -> Ended:
        """Run to the end, hand over each line that the stage prints, and keep all in the log."""
        from prefect import get_client

        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.log.open("w") as log, get_client(sync_client=True) as client:

                def tell(line: str) -> None:
                    log.write(line + "\n")
                    log.flush()
                    say(line)

                try:
                    return self._run(client, tell)
                except WorkspaceError as error:
                    tell(str(error))
                    return Ended("failed", 1)
        finally:
            self._ended.set()

    def end(self) -> None:
        """Have the worker end the stage, whose checkpoints stay, and wait for that a limited time."""
        from prefect import get_client
        from prefect.states import Cancelling

        self._ending = True
        if self._local is not None:
            self._local.end()
        if self._flow_run is not None and not self._ended.is_set():
            # a server that is away: the worker misses this process soon
            with suppress(Exception), get_client(sync_client=True) as client:
                client.set_flow_run_state(self._flow_run, Cancelling(message="the coordinator was interrupted"))
        self._ended.wait(CANCEL_SECONDS)

    def _run(self, client: "SyncPrefectClient", say: Callable[[str], None]) -> Ended:
        from pipelines.stage_flow import ENTRY, OUTCOME

        coordinator = _coordinator()
        if not self._push(say):
            return Ended("failed", 1)
        parameters = self._parameters(coordinator)
        for attempt in range(1, TRIES + 1):
            if self._ending:
                return Ended("failed", 130)
            created = self._create(client, parameters, coordinator)
            self._flow_run = created.id
            run = self._watched(client, created.id, coordinator, say).wait()
            if run is None or (run.state is not None and run.state.is_crashed()):
                why = "is silent" if run is None else f"has ended: {run.state.message}"  # type: ignore[union-attr]
                rest = "it is given to another" if attempt < TRIES else "that was the last try"
                say(f"{self.stage}: its worker {why}; {rest} (try {attempt} of {TRIES})")
                self._end_runs()
                continue
            if OUTCOME in run.labels and run.state is not None and run.state.is_completed():
                return self._restore(str(run.labels[OUTCOME]), json.loads(str(run.labels[ENTRY])), say)
            say(f"{self.stage}: {run.state.name if run.state else 'gone'}: {(run.state and run.state.message) or ''}")
            return Ended("failed", 130 if run.state is not None and run.state.is_cancelled() else 1)
        return Ended("failed", 1)

    def _end_runs(self) -> None:
        """Mark in MLflow what a dead worker ran as killed, for nobody else will."""
        from mlml.tracking import store

        with suppress(Exception):  # a store that is away; it then shows a run that goes on
            uri = store.tracking_uri(self.pool.folder)
            tags = {"dvc.stage": self.stage, "dvc.key": _lineage.of(self.stage).key}
            client = store.connect(uri)
            for run in store.find_runs(uri, tags):
                if run.info.status == "RUNNING":
                    client.set_terminated(run.info.run_id, "KILLED")

    def _create(self, client: "SyncPrefectClient", parameters: dict[str, Any], coordinator: UUID) -> "FlowRun":
        """Hand the stage to the pool."""
        assert self.pool.deployment is not None
        insist(lambda: self.pool.beat(client, coordinator))
        deployment, once = self.pool.deployment, str(uuid4())  # asked twice, the server makes one
        return insist(
            lambda: client.create_flow_run_from_deployment(
                deployment,
                parameters=parameters,
                name=self.stage,
                parent_task_run_id=_task(),
                idempotency_key=once,
            )
        )

    def _watched(
        self, client: "SyncPrefectClient", identity: UUID, coordinator: UUID, say: Callable[[str], None]
    ) -> WatchedRun:
        progress = self.environment.get(STATUS_VARIABLE)
        return WatchedRun(
            client,
            identity,
            self.pool.name,
            self.pool.silence_seconds,
            lambda: self.pool.beat(client, coordinator),
            say,
            Path(progress) if progress else None,
        )

    def _push(self, say: Callable[[str], None]) -> bool:
        """Bring to the DVC remote what the stage reads, unless this run knows that it is there."""
        if not self.inputs.pulled:
            return True
        with self.pool.pushing:  # DVC would let one at a time through, too
            missing = [name for name in self.inputs.stages if name not in self.pool.pushed]
            missing = [name for name in missing if any(out.use_cache for out in self.pool.graph.stage(name).outs)]
            if not missing:
                return True
            ended = self._dvc("dvc", ["push", "--quiet", *missing], {}, say)
            if ended.code == 0:
                self.pool.pushed.update(missing)
            return ended.code == 0

    def _restore(self, outcome: str, entry: dict[str, Any], say: Callable[[str], None]) -> Ended:
        """Bring the outputs here, and the entry into dvc.lock."""
        reported = self.log.with_suffix(".json")
        reported.write_text(json.dumps({"stage": self.stage, "entry": entry}))
        lines: list[str] = []
        words = ["repro", "--single-item", "--pull", self.stage]
        ended = self._dvc("pipelines.restore_dvc", words, {REPORTED: str(reported.resolve())}, lines.append)
        if ended.outcome == "failed":
            for line in lines:
                say(line)
            return ended
        self.pool.pushed.add(self.stage)
        return Ended("restored" if outcome == "restored" else "ran", 0)

    def _dvc(
        self, module: str, words: Sequence[str], environment: Mapping[str, str], say: Callable[[str], None]
    ) -> Ended:
        if self._ending:
            return Ended("failed", 130)
        self._local = DvcProcess(module, words, self.pool.folder, environment, self.log.with_suffix(".dvc.log"))
        return self._local.run(say)

    def _parameters(self, coordinator: UUID) -> dict[str, Any]:
        """Arguments of `pipelines.stage_flow.run_stage`."""
        size, files = 0, {}
        for name in self.inputs.sent:
            path = self.pool.folder / name
            content = path.read_bytes() if path.is_file() else None
            size += len(content or b"")
            if content is None or size > MAX_FILES_BYTES:
                raise WorkspaceError(
                    f"{self.stage}: its input {name} has 'cache: false' and is a folder or larger than "
                    f"{MAX_FILES_BYTES} bytes, so it cannot reach a worker; let DVC keep it"
                )
            files[name] = base64.b64encode(content).decode()
        wanted = {*THREAD_LIMITS, "OMP_WAIT_POLICY"}
        environment = {**os.environ, **self.environment}
        return {
            "stage": self.stage,
            "commit": self.pool.commit,
            "lock": _entries(self._lock, self.inputs.stages),
            "inputs": list(self.inputs.pulled),
            "files": files,
            "environment": {name: value for name, value in environment.items() if name in wanted},
            "force": self.force,
            "coordinator": str(coordinator),
            "silence_seconds": self.pool.silence_seconds,
        }


def _entries(lock: Path, stages: Iterable[str]) -> str:
    """A dvc.lock with the entries of some stages only: what a worker needs to know its inputs by."""
    content = YAML(typ="safe").load(lock.read_text()) if lock.exists() else {}
    entries = content.get("stages", {})
    kept = {name: entries[name] for name in stages if name in entries}
    return json.dumps({"schema": content.get("schema", "2.0"), "stages": kept})  # JSON is YAML


def _coordinator() -> UUID:
    """Id of the flow run that this is a task of.

    Raises:
        WorkspaceError: there is none.
    """
    from prefect.context import FlowRunContext, TaskRunContext

    task, flow = TaskRunContext.get(), FlowRunContext.get()
    if task is not None and task.task_run.flow_run_id is not None:
        return task.task_run.flow_run_id
    if flow is not None and flow.flow_run is not None:
        return flow.flow_run.id
    raise WorkspaceError("the Prefect server does not record this run, so no worker can be given a stage of it")


def _task() -> UUID | None:
    """Id of the task run that this is, under which Prefect's pages show the worker's run."""
    from prefect.context import TaskRunContext

    context = TaskRunContext.get()
    return context.task_run.id if context is not None else None
