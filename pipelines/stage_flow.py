"""One stage on a worker: the Prefect flow that a work pool runs, in a process of its own, in the worker's repository.

The coordinator (`pipelines.remote`) and this process watch each other through the labels of their flow runs, which
Prefect keeps: each counts up a label while it lives. Whichever has been silent for too long, by the clock of the
other, is taken for dead: the coordinator has the stage run elsewhere, the stage ends and leaves its checkpoints. A
stage that was taken for dead and comes back finds its flow run ended, and ends too; what it may have pushed lies under
the hash of its content, and nobody asks for it.
"""

import json
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Completed, Failed
from ruamel.yaml import YAML

from mlml import status
from pipelines.dvc_process import DvcProcess, Ended
from pipelines.flow_run_watch import insist
from pipelines.slot_workspace import CheckOutError, bring, check_out, free_slot
from pipelines.slots import gpus

output = logging.getLogger("pipelines.output")
"""Every line that the stage prints; the coordinator shows these, and no others."""

BEAT, STATUS, OUTCOME, ENTRY = "mlml.beat", "mlml.status", "mlml.outcome", "mlml.entry"
"""Labels of a flow run: a count; what the stage does now; how it ended; its entry in dvc.lock."""


class Watch:
    """Tells Prefect that this process lives, and ends the stage when nobody waits for it any more.

    Args:
        own: id of this process's flow run.
        coordinator: id of the flow run that waits for the stage.
        every_seconds: between two beats.
        silence_seconds: after which the coordinator is taken for dead.
        progress: file that the stage writes (`mlml.status`).
        end: ends the stage; called at most once, in a thread.
    """

    def __init__(
        self,
        own: UUID,
        coordinator: UUID,
        every_seconds: float,
        silence_seconds: float,
        progress: Path,
        end: Callable[[], None],
    ) -> None:
        self.own, self.coordinator, self.progress = own, coordinator, progress
        self.every_seconds, self.silence_seconds = every_seconds, silence_seconds
        self.reason = ""  # why the stage was ended
        self._end = end
        self._count = 0
        self._heard: tuple[Any, float] = (None, time.monotonic())
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                self.reason = self._beat()
            except Exception:  # the server is away: the stage goes on, and that time says nothing of the coordinator
                self._heard = (self._heard[0], time.monotonic())
            if self.reason:
                self._end()
                return
            self._stopping.wait(self.every_seconds)

    def _beat(self) -> str:
        """Count up, and return why the stage should end; "" while it should not."""
        self._count += 1
        found = status.read(self.progress)
        with get_client(sync_client=True) as client:
            labels: dict[str, Any] = {BEAT: self._count}
            if found is not None:
                labels[STATUS] = json.dumps(vars(found))
            client.update_flow_run_labels(self.own, labels)
            own, other = client.read_flow_run(self.own), client.read_flow_run(self.coordinator)
        return judge_own(own.state) or self.judge_coordinator(other, time.monotonic())

    def judge_coordinator(self, run: FlowRun, now: float) -> str:
        """Why the stage should end, from what the coordinator's flow run says at a moment."""
        if run.state is not None and (run.state.is_final() or run.state.is_cancelling()):
            return f"the coordinator's run is {run.state.name}"
        count = run.labels.get(BEAT)
        if count != self._heard[0]:
            self._heard = (count, now)
        silent = now - self._heard[1]
        return f"the coordinator has been silent for {silent:.0f} s" if silent > self.silence_seconds else ""


def judge_own(state: "State[Any] | None") -> str:
    """Why the stage should end, from the state of its own flow run."""
    if state is None or state.is_running() or state.is_pending() or state.is_scheduled():
        return ""
    return f"its Prefect run is {state.name}: {state.message or 'no reason given'}"


class Work:
    """The commands of one stage in a workspace; `end` may be called from any thread."""

    def __init__(self, workspace: Path, environment: Mapping[str, str]) -> None:
        self.workspace, self.environment = workspace, environment
        self._process: DvcProcess | None = None
        self._ended = False

    def dvc(self, *words: str) -> Ended:
        """Run a `dvc` command to its end, and log what it prints."""
        if self._ended:
            return Ended("failed", 1)
        log = self.workspace / ".mlml" / "stage.log"
        self._process = DvcProcess("dvc", words, self.workspace, self.environment, log)
        if self._ended:
            return Ended("failed", 1)
        try:
            return self._process.run(lambda line: output.info("%s", line))
        except BaseException:  # SIGTERM, which Prefect turns into an exception
            self._process.end()
            raise

    def end(self) -> None:
        """End what runs, and start nothing more."""
        self._ended = True
        if self._process is not None:
            self._process.end()


@flow(name="stage", flow_run_name="{stage}", persist_result=False, validate_parameters=False)
def run_stage(
    stage: str,
    commit: str,
    lock: str,
    inputs: list[str],
    files: dict[str, str],
    environment: dict[str, str],
    force: bool,
    coordinator: str,
    silence_seconds: float,
) -> "State[Any]":
    """Run one stage of a commit, push what it made, and say how it ended.

    Args:
        stage: as DVC addresses it.
        commit: to check out.
        lock: a dvc.lock with the entries of the stages before.
        inputs: outputs of other stages, to be pulled from the DVC remote.
        files: small inputs that no remote has: path -> content in base64.
        environment: of the stage.
        force: run it, even if it was run already.
        coordinator: id of the flow run that waits for it.
        silence_seconds: after which the other side is taken for dead.
    """
    logging.getLogger("pipelines").setLevel(logging.INFO)
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    own, root = context.flow_run.id, Path.cwd()
    for name in [name for name in os.environ if name.startswith("PREFECT__")]:
        del os.environ[name]  # of this flow run, not of the stage's own
    with free_slot(root) as (number, workspace):
        progress = workspace / ".mlml" / "status"
        work = Work(workspace, {**environment, **_device(number), status.VARIABLE: str(progress)})
        end_with_parent()
        watch = Watch(own, UUID(coordinator), silence_seconds / 6, silence_seconds, progress, work.end)
        try:
            check_out(root, workspace, commit)
            bring(workspace, lock, files)
            progress.parent.mkdir(parents=True, exist_ok=True)
            progress.unlink(missing_ok=True)
            ended = _in_workspace(work, stage, inputs, force)
        except CheckOutError as error:
            output.error("%s", error)
            ended = Ended("failed", 1)
        finally:
            watch.close()
        if watch.reason:
            output.warning("%s: ended, since %s", stage, watch.reason)
        for handler in logging.getLogger("prefect.extra").handlers:
            handler.flush()  # before the state, after which nobody reads any more
        if watch.reason:
            return Cancelled(message=watch.reason)
        return _report(own, stage, workspace, ended)


def _in_workspace(work: Work, stage: str, inputs: list[str], force: bool) -> Ended:
    """Pull what the stage reads, run it, push what it made."""
    if inputs:
        pulled = work.dvc("pull", "--quiet", "--force", *inputs)
        if pulled.code != 0:
            return Ended("failed", pulled.code)
    ended = work.dvc("repro", "--single-item", *(["--force"] if force else []), stage)
    if ended.outcome == "failed":
        return ended
    pushed = work.dvc("push", "--quiet", "--run-cache", stage)
    return ended if pushed.code == 0 else Ended("failed", pushed.code)


def _report(own: UUID, stage: str, workspace: Path, ended: Ended) -> "State[Any]":
    """Leave the result where the coordinator finds it, and return the state of the flow run."""
    if ended.outcome == "failed":
        return Failed(message=f"{stage} failed with exit code {ended.code}")
    content = YAML(typ="safe").load((workspace / "dvc.lock").read_text())
    with get_client(sync_client=True) as client:
        entry = json.dumps(content["stages"][stage])
        insist(lambda: client.update_flow_run_labels(own, {OUTCOME: ended.outcome, ENTRY: entry}))
    return Completed(message=f"{stage}: {ended.outcome}")


def _device(slot: int) -> dict[str, str]:
    """The GPU of a slot, where the machine has any."""
    found = gpus()
    return {"CUDA_VISIBLE_DEVICES": found[slot % len(found)]} if found else {}


def end_with_parent() -> None:
    """End this process as by SIGTERM when the one that started it ends; a worker that was killed leaves no orphan."""
    parent = os.getppid()
    if parent <= 1:  # the first process of a container
        return
    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:
        sys.exit("the worker that started this stage has ended")

    def wait() -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()
