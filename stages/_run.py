"""What every stage does around its work: check the declaration, open its run, be one Prefect flow, leave a record."""

import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlml.tracking.run import Run, Status
from mlml.tracking.store import tracking_uri
from mlml.tracking.sync import SyncProcess
from stages import _diff, _lineage, _servers
from stages._flow_process import FlowProcess
from stages._life import end_with_dvc, is_warm, only_one
from stages._steps import Steps

if TYPE_CHECKING:
    from mlml.declaration import Declaration

logger = logging.getLogger(__name__)

EXPERIMENT = "mlml"
"""Name of the MLflow experiment that holds every run."""


@dataclass
class Stage:
    """A stage at work.

    Attributes:
        name: of the entry in params.yaml.
        address: of the stage, as DVC has it, such as "pretext@simclr".
        folder: of this run's records and checkpoints, outside of what DVC removes.
        run: the stage's MLflow run.
        tags: of the stage's run, and of every run nested in it.
        steps: runs named pieces of work as Prefect tasks.
        last_tags: by the folder of a nested run, what it is tagged with when it ends.
        at_end: called when the outputs are written, before the runs count as finished: what removes checkpoints.
        early: what the group has begun before anything else, if it does such a thing.
    """

    name: str
    address: str
    declaration: "Declaration"
    folder: Path
    run: Run
    tags: dict[str, str]
    steps: Steps
    last_tags: dict[Path, dict[str, str]] = field(default_factory=dict)
    at_end: list[Callable[[], None]] = field(default_factory=list)
    early: Any = None
    _nested: list[Run] = field(default_factory=list)

    def nested_run(self, label: str, parameters: Mapping[str, Any], **tags: str) -> Run:
        """Open a run inside the stage's, such as that of one seed; checkpoints and points may lie in its folder.

        It stays open until the stage ends: a finished run would be begun anew by a stage that is killed and run again.
        """
        run = Run.open(
            self.folder / label,
            f"{self.name} {label}",
            EXPERIMENT,
            {**self.tags, **tags},
            parameters,
            parent=self.folder,
        )
        self._nested.append(run)
        return run

    def tag(self, device: str, **about: str) -> None:
        """Say on the stage's run, and on every run opened after this, what computes and what it is about."""
        self.tags |= {"device": device, **{f"mlml.{key}": value for key, value in about.items()}}
        self._tag_flow_run()

    def _tag_flow_run(self) -> None:
        self.tags["prefect.flow_run_id"] = self.steps.flow_run_id or ""
        self.run.add_tags(self.tags)

    def finish(self, status: Status) -> None:
        """End every run."""
        if "prefect.flow_run_id" not in self.tags:  # `tag` was not called
            self._tag_flow_run()
        for run in [*self._nested, self.run]:
            run.finish(status, self.last_tags.get(run.folder))


def run_stage(group: str, work: Callable[[Stage], None], begin: Callable[[str, bool], Any] | None = None) -> None:
    """Run the entry that the command line names as one stage of a group of dvc.yaml.

    Exit codes: 2 when the declaration has faults; 1 when the work fails.

    Args:
        group: of the stage.
        work: what it does.
        begin: begins processes of the group's own: (name of the entry, whether to fork this process) -> `Stage.early`.
    """
    started = time.monotonic()
    # importing torch and Prefect makes some million objects, none of them garbage; looking for it costs a tenth
    gc.set_threshold(200_000, 50, 50)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise SystemExit(f"stages.{group}: a stage is one process; for several, call mlml.train.fit under torchrun")
    name = sys.argv[1] if len(sys.argv) > 1 else group
    address = f"{group}@{name}" if len(sys.argv) > 1 else group
    root = _lineage.store_root()
    _servers.apply_settings(root)
    # the processes, before a thread begins; they import for longer than anything here takes
    syncer, flow = SyncProcess(tracking_uri(root), fork=is_warm()), FlowProcess(fork=is_warm())
    early = begin(name, is_warm()) if begin is not None else None
    end_with_dvc()
    from stages.check import read_or_exit

    declared = read_or_exit()
    try:
        flow.begin(group, address, _servers.ensure_prefect(root), {"stage": address, "entry": name})
        with flow:
            lineage = _lineage.of(address)
            folder = _lineage.run_folder(root, lineage)
            with only_one(folder):
                tags = tags_of(address, name, lineage)
                run = Run.open(folder, address, EXPERIMENT, tags, lineage.parameters)
                if tags["git.dirty"] == "true":
                    run.log_artifact(_diff.write_patch(Path.cwd(), folder))
                syncer.begin(folder)
                stage = Stage(name, address, declared, folder, run, tags, flow, early=early)
                try:
                    work(stage)
                    flow.end()
                    run.add_tags(_lineage.hashes(address))
                    run.log("system/seconds", time.monotonic() - started)
                    for action in stage.at_end:
                        action()
                except BaseException as error:
                    stage.finish("FAILED" if isinstance(error, Exception) else "KILLED")
                    raise
                else:
                    stage.finish("FINISHED")
    finally:
        syncer.close()
        flow.close()
    _leave()


def _leave() -> None:
    """End the process at once: all is written and sent, and taking torch and Prefect apart takes most of a second."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def tags_of(address: str, name: str, lineage: _lineage.Lineage) -> dict[str, str]:
    """Lineage as MLflow tags."""
    commit, dirty = _lineage.git_state(Path.cwd())
    return {
        "dvc.stage": address,
        "dvc.key": lineage.key,
        "dvc.cmd": lineage.command,
        "dvc.exp": os.environ.get("DVC_EXP_NAME", ""),
        "mlml.experiment": name,
        "git.commit": commit,
        "git.dirty": str(dirty).lower(),
        **{f"dvc.dep.{path}": md5 for path, md5 in lineage.dependencies.items()},
        **{f"version.{package}": version for package, version in versions().items()},
    }


def versions() -> dict[str, str]:
    """Versions of what computes, without importing it."""
    from importlib.metadata import version
    from platform import python_version

    packages = ("torch", "torchvision", "numpy", "scikit-learn")
    return {"python": python_version(), **{package: version(package) for package in packages}}
