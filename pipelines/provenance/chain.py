"""The chain behind a value: each run of a stage with its facts, what it read, and which of it holds no more."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mlml.tracking.run import flatten
from pipelines.graph import Graph
from pipelines.provenance.digests import Commit, digest
from pipelines.provenance.making import Making, WhyError, covers, makers
from pipelines.provenance.question import Question
from pipelines.provenance.runs import Run, Runs
from stages import _lineage
from stages._diff import NOT_KEPT

RAW, REPORTS = "data", "reports"
"""What lies here and is made by no stage is raw data, or a folder into which no declared stage writes; what lies
elsewhere is code or declaration.
"""

UNRECORDED = {"check": "it only checks params.yaml"}
"""Stages that compute nothing, and have no MLflow run."""


@dataclass(frozen=True)
class CodeFile:
    """A file, or a folder of files, of the project itself that a stage read.

    Attributes:
        committed: its md5 in the run's commit; None if that does not have it.
        now: its md5 as it lies; None if it is gone.
    """

    path: str
    md5: str
    committed: str | None
    now: str | None


@dataclass(frozen=True)
class Input:
    """Data that a stage read.

    Attributes:
        steps: names of the steps that made it; none for raw data.
    """

    path: str
    md5: str
    now: str | None
    steps: tuple[str, ...]

    @property
    def raw(self) -> bool:
        return not self.steps and covers(RAW, self.path)


@dataclass
class Step:
    """One run of a stage in the chain.

    Attributes:
        name: the stage's; with its key, if the chain holds two runs of it.
        runs: MLflow's of this key, the newest first.
        run: that which left these outputs.
        patch: the uncommitted changes that it was made with, if it kept them.
        faults: what does not hold, a sentence each.
    """

    name: str
    making: Making
    runs: list[Run]
    run: Run | None
    patch: bytes | None
    code: list[CodeFile] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Workspace:
    """The project as it lies now, with the md5 of each file read once.

    Raises:
        WhyError: DVC cannot read its declaration.
    """

    def __init__(self, folder: Path) -> None:
        from dvc.exceptions import DvcException

        self.folder = folder
        try:
            with contextlib.chdir(folder):
                self._graph = Graph()
        except DvcException as error:
            raise WhyError(f"{folder}: DVC cannot read dvc.yaml with params.yaml: {error} ('mlml check')") from None
        self._md5s: dict[str, str | None] = {}

    def stage(self, name: str) -> Any:
        """Return DVC's object of a stage; None if it is not declared."""
        return self._graph.stage(name) if name in self._graph.nodes else None

    def digest(self, path: str) -> str | None:
        """Return the md5 of a file or folder as it lies; None if it is not there."""
        if path not in self._md5s:
            known: Any = self._known.get(path)
            # DVC remembers the md5s of large files
            declared = known is not None and known.exists
            self._md5s[path] = _lineage.hash_of(known).value if declared else digest(self.folder / path)
        return self._md5s[path]

    @cached_property
    def _known(self) -> dict[str, Any]:
        from dvc.dependency.param import ParamsDependency

        logging.getLogger("dvc").setLevel(logging.CRITICAL)
        stages = [self._graph.stage(name) for name in self._graph.nodes]
        return {
            item.def_path: item
            for stage in stages
            for item in (*stage.deps, *stage.outs)
            if not isinstance(item, ParamsDependency)
        }

    def parameters(self, name: str) -> dict[str, Any]:
        """Return what params.yaml now gives to a declared stage."""
        from dvc.dependency.param import ParamsDependency

        found: dict[str, Any] = {}
        for dependency in self.stage(name).deps:
            if isinstance(dependency, ParamsDependency):
                found |= dependency.read_params()
        return found

    def close(self) -> None:
        self._graph.repo.close()


class Chain:
    """The steps behind a value.

    Attributes:
        steps: by name, the one that made the value first, each before those that made its inputs.
    """

    def __init__(self, question: Question, lock: Mapping[str, Making], runs: Runs, workspace: Workspace) -> None:
        self._lock, self._runs, self._workspace = lock, runs, workspace
        self._commits: dict[str, Commit] = {}
        self.steps: dict[str, Step] = {}
        self.question = question
        self.first = self._follow(question.making, question.run)
        self.faults = [*question.faults, *([runs.fault] if runs.fault else [])]

    @property
    def holds(self) -> bool:
        """Whether all is as dvc.lock, the runs and the commits say."""
        return not self.faults and not any(step.faults for step in self.steps.values())

    def commit(self, name: str) -> Commit:
        """Return the files of a commit."""
        if name not in self._commits:
            self._commits[name] = Commit(self._workspace.folder, name)
        return self._commits[name]

    def _follow(self, making: Making, run: Run | None = None) -> str:
        """Add the step of a making, and those of its inputs; return its name."""
        name = making.stage if making.locked else f"{making.stage} {making.key}"
        if name in self.steps:
            return name
        runs = self._runs.of(making) if making.stage not in UNRECORDED else []
        # one key may have been run again; all that DVC keeps of it is what the outputs are
        same = [found for found in runs if found.status == "FINISHED" and _left(found, making)]
        run = run or next(iter(same), None) or next(iter(runs), None)
        step = Step(name, making, runs, run, self._runs.patch(run) if run and run.dirty else None)
        self.steps[name] = step
        self._check_run(step)
        self._add_code(step)
        for path, md5 in making.inputs.items():
            if path not in {file.path for file in step.code}:
                self._add_input(step, path, md5)
        self._check_workspace(step)
        return name

    def _add_code(self, step: Step) -> None:
        """Add the files of the project itself; say when the commit has others although the run knew of no change."""
        paths = [
            path
            for path in step.making.inputs
            if not makers(self._lock, path) and not covers(RAW, path) and not covers(REPORTS, path)
        ]
        run = step.run
        committed = self.commit(run.commit).digests(paths) if run is not None else dict.fromkeys(paths)
        for path in paths:
            step.code.append(CodeFile(path, step.making.inputs[path], committed[path], self._workspace.digest(path)))
        differ = [file.path for file in step.code if file.md5 != file.committed]
        if run is not None and not run.dirty and self.commit(run.commit).known and differ:
            step.faults.append(f"the run says that nothing was uncommitted, yet its commit has other {_list(differ)}")

    def _add_input(self, step: Step, path: str, md5: str) -> None:
        """Add data that the stage read, and follow it to the stages that made it."""
        found, now = makers(self._lock, path), self._workspace.digest(path)
        steps = []
        for making in found:
            written = making.outputs.get(path, md5)
            if written == md5:
                steps.append(self._follow(making))
            elif earlier := self._runs.that_wrote(path, md5):
                steps.append(self._follow(Making.from_tags(earlier.tags, earlier.parameters), earlier))
            else:
                step.faults.append(
                    f"{path} was read with md5 {md5}; {making.stage} has since left {written}, "
                    "and no MLflow run is known that wrote the former"
                )
        step.inputs.append(Input(path, md5, now, tuple(steps)))

    def _check_run(self, step: Step) -> None:
        """Whether a run is known that left these outputs, and what is known of its code."""
        making, run = step.making, step.run
        if making.stage in UNRECORDED:
            return
        if run is None:
            step.faults.append(f"no MLflow run is known of key {making.key}, so neither commit nor device")
            return
        written = Making.from_tags(run.tags, {}).outputs
        step.faults += [
            f"the run left {path} with md5 {written[path]}, dvc.lock holds {md5}"
            for path, md5 in making.outputs.items()
            if written.get(path, md5) != md5
        ]
        if run.status != "FINISHED":
            step.faults.append(f"the run is {run.status}, not FINISHED")
        if not run.commit:
            step.faults.append("the run was made outside of a git repository, so its code is not known")
        elif not self.commit(run.commit).known:
            step.faults.append(f"commit {run.commit} is not in this repository; 'git fetch' may bring it")
        if run.dirty and step.patch is None:
            step.faults.append("the run was made with uncommitted changes, and kept none of them")
        if fault := not_kept(step.patch):
            step.faults.append(f"the run was made with uncommitted changes, which were not kept: {fault}")

    def _check_workspace(self, step: Step) -> None:
        """What has changed since in the project as it lies."""
        making, stage = step.making, self._workspace.stage(step.making.stage)
        changed = [file.path for file in step.code if file.now != file.md5]
        if changed:
            step.faults.append(f"code has changed since: {_list(changed)}")
        for read in step.inputs:
            if read.now is None:
                step.faults.append(f"{read.path} is not there any more")
            elif read.now != read.md5:
                step.faults.append(f"{read.path} has changed since: it was {read.md5}, it is {read.now}")
        for path, md5 in making.outputs.items():
            lies = self._workspace.digest(path)
            if lies != md5:
                is_now = f"is {lies} on disk" if lies else "is not on disk"
                step.faults.append(f"{path} {is_now}; it was left with md5 {md5}")
        if stage is None:
            step.faults.append("the stage is not declared any more")
            return
        if stage.cmd != making.command:
            step.faults.append(f"the command has changed since: it is now {stage.cmd!r}")
        then, now = flatten(making.parameters), flatten(self._workspace.parameters(making.stage))
        step.faults += [
            f"params.yaml has changed since: {key} was {then.get(key, 'not given')}, is {now.get(key, 'not given')}"
            for key in sorted(then.keys() | now.keys())
            if then.get(key) != now.get(key)
        ]


def _left(run: Run, making: Making) -> bool:
    """Whether a run left these outputs; one that was not sent whole may not say."""
    return all(run.tags.get(f"dvc.out.{path}", md5) == md5 for path, md5 in making.outputs.items())


def not_kept(patch: bytes | None) -> str | None:
    """Return what stands in place of changes that a run could not keep, as too large; None where they are kept."""
    head = (patch or b"").decode(errors="replace")
    return head.removeprefix(NOT_KEPT).strip() if head.startswith(NOT_KEPT) else None


def _list(paths: list[str], most: int = 5) -> str:
    return ", ".join(paths[:most]) + (f" and {len(paths) - most} more" if len(paths) > most else "")
