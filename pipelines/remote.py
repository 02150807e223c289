"""Stages on other machines: the coordinator's side of a Prefect work pool.

Each stage that need not run here becomes a run of the pool's deployment (`pipelines.stage_flow`), and is still a task
of the coordinator's flow. The worker gets the commit from git and the inputs from the DVC remote; the result comes back
by DVC's run cache, so that dvc.lock is as after a local run.
"""

import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from pipelines.dvc_process import stage_process
from pipelines.flow_run_watch import insist
from pipelines.graph import Graph
from pipelines.lock_file import WorkspaceError
from pipelines.pushed import pushed_commit
from pipelines.remote_stage import Inputs, RemoteStage

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from pipelines.reproduce import Runner

DEPLOYMENT = "pipelines.stage_flow.run_stage"
SILENCE = "MLML_WORKER_SILENCE_SECONDS"
"""Environment variable: after how many seconds without a sign of life a worker is taken for dead."""
SILENCE_SECONDS = 60.0
JOBS = 8
"""Stages that are given to a pool at once; the pool keeps waiting those that no worker has a slot for."""


class Pool:
    """A work pool as the place where stages run; `launch` makes what runs one.

    Args:
        name: of the pool.
        graph: of the workspace.
        folder: the workspace.
        state: folder with the kept copy of dvc.lock.
        silence_seconds: after which a worker is taken for dead.
    """

    def __init__(
        self, name: str, graph: Graph, folder: Path, state: Path, silence_seconds: float | None = None
    ) -> None:
        self.name, self.graph, self.folder, self.state = name, graph, folder, state
        self.silence_seconds = silence_seconds or silence(os.environ)
        self.commit = ""
        self.deployment: UUID | None = None
        self.pushed: set[str] = set()  # stages whose outputs are on the DVC remote
        self.pushing = threading.Lock()
        self._beating = threading.Lock()
        self._count, self._beaten = 0, 0.0

    def check(self, stages: Iterable[str], api: str | None) -> None:
        """See that workers can do what this workspace would; find the pool and tell Prefect what runs there.

        Args:
            stages: that are to run, here or there.
            api: of the Prefect server; None if there is none.

        Raises:
            WorkspaceError: they cannot; the sentence says why, and the way out.
        """
        for name in stages:
            if not self.graph.nodes[name].here:
                kept_nowhere = [out.def_path for out in self.graph.stage(name).outs if not out.use_cache]
                if kept_nowhere:
                    raise WorkspaceError(
                        f"{name}: its output {kept_nowhere[0]} has 'cache: false', so DVC cannot bring it here from a "
                        "worker; drop that, or set 'meta: {here: true}' of the stage in dvc.yaml"
                    )
        if not self.graph.repo.config.get("core", {}).get("remote"):
            raise WorkspaceError(
                "no DVC remote is declared, by which workers would get data and return results; "
                "set one by 'dvc remote add --default NAME URL' and commit .dvc/config"
            )
        self.commit = pushed_commit(self.folder, [out for node in self.graph.nodes.values() for out in node.outs])
        if api is None:
            raise WorkspaceError("there is no Prefect server, through which workers are reached; set PREFECT_API_URL")
        from prefect import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
            self._connect(client)

    def _connect(self, client: "SyncPrefectClient") -> None:
        """Find the pool, and declare what runs in it."""
        from prefect.exceptions import ObjectNotFound

        try:
            insist(lambda: client.read_work_pool(self.name))
        except ObjectNotFound:
            raise WorkspaceError(
                f"--pool {self.name}: Prefect has no work pool of this name; start a worker, which makes it: "
                f"'mlml worker --pool {self.name}'"
            ) from None
        flow = insist(lambda: client.create_flow_from_name("stage"))
        self.deployment = insist(
            lambda: client.create_deployment(
                flow_id=flow,
                name=self.name,
                work_pool_name=self.name,
                entrypoint=DEPLOYMENT,
                path=".",
                enforce_parameter_schema=False,
                tags=["mlml"],
                description="One stage of dvc.yaml; started by 'mlml repro --pool', not by hand.",
            )
        )

    def launch(self, stage: str, environment: Mapping[str, str], force: bool, log: Path) -> "Runner":
        """Return what runs a stage: a process here if it must run here, else a worker of the pool."""
        if self.graph.nodes[stage].here:
            return stage_process(self.folder, stage, environment, force, log)
        return RemoteStage(self, stage, self._inputs(stage), environment, force, log)

    def beat(self, client: "SyncPrefectClient", coordinator: UUID) -> None:
        """Tell the workers that this process lives."""
        from pipelines.stage_flow import BEAT

        with self._beating:
            if time.monotonic() - self._beaten < self.silence_seconds / 6:
                return
            self._count += 1
            client.update_flow_run_labels(coordinator, {BEAT: self._count})
            self._beaten = time.monotonic()

    def _inputs(self, stage: str) -> Inputs:
        """What a stage reads of others' outputs; called from the graph's thread.

        The trials of a search that an evaluation judges are seen by its extractor, which dvc.yaml can name there alone.
        """
        read, upstream = self._read(stage), self.graph.nodes[stage].upstream
        if stage.startswith("search@"):
            for judge in [name for name in upstream if name.startswith("evaluation@")]:
                read += [path for path in self._read(judge) if path.parts[0] == "models"]
                upstream = tuple(dict.fromkeys([*upstream, *self.graph.nodes[judge].upstream]))
        outs = [
            (Path(out.def_path), out.use_cache)
            for name in upstream
            for out in self.graph.stage(name).outs
            if any(Path(out.def_path).is_relative_to(path) or path.is_relative_to(out.def_path) for path in read)
        ]
        pulled = tuple(str(path) for path, cached in outs if cached)
        return Inputs(upstream, pulled, tuple(str(path) for path, cached in outs if not cached))

    def _read(self, stage: str) -> list[Path]:
        """Paths that a stage depends on."""
        return [Path(dependency.def_path) for dependency in self.graph.stage(stage).deps if dependency.def_path]


def silence(environment: Mapping[str, str]) -> float:
    """Return after how many seconds a worker is taken for dead.

    Raises:
        WorkspaceError: the setting is no number of at least 3 seconds; a sign of life comes six times in that time.
    """
    given = environment.get(SILENCE, str(SILENCE_SECONDS))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 3.0 <= seconds < float("inf"):
        raise WorkspaceError(f"{SILENCE}: must be a number of seconds, at least 3; got {given!r}")
    return seconds
