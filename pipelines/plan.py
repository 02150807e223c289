"""What a run would do, and why, without doing any of it.

A stage is judged by the inputs that it would find, not by those that lie there now: what comes unchanged out of the
stages before it, what DVC's run cache would put there, or something unknown, if a stage before it runs.
`dvc repro --dry` looks into the run cache by the inputs of the last run, so it cannot say that.
"""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from pipelines.graph import Graph
from pipelines.reasons import (
    AlwaysRuns,
    ChangedCommand,
    ChangedFile,
    ChangedOutput,
    ChangedParameter,
    NeverRun,
    Reason,
    Upstream,
    parameter_changes,
)
from pipelines.slots import Slots
from stages import _lineage
from stages.check import CHECKED

Action = Literal["run", "may run", "restore", "unchanged"]
"""`may run`: only if a stage before it makes something new; `restore`: DVC has the outputs in its cache."""

WILL_WORK: tuple[Action, ...] = ("run", "may run")


@dataclass(frozen=True)
class Step:
    """What a run would do about one stage, and every reason for it."""

    stage: str
    action: Action
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """How long a run takes if everything runs that may, in seconds; stages of unknown duration count nothing.

    Attributes:
        serial: one stage at a time.
        parallel: with so many jobs.
        critical: of the longest chain of stages, which no number of jobs shortens.
        unknown: stages that would run, and of which no duration is known.
    """

    serial: float
    parallel: float
    critical: float
    jobs: int
    unknown: tuple[str, ...]


def plan(graph: Graph, targets: Sequence[str] = ()) -> list[Step]:
    """Return what a run of the targets would do, stage by stage, in serial order.

    Args:
        graph: of the workspace; neither it nor the workspace is changed.
        targets: as `Graph.select`.

    Raises:
        TargetError: a target names no stage.
    """
    planner = _Planner(graph)
    return [planner.step(name) for name in graph.select(targets)]


def estimate(graph: Graph, steps: Sequence[Step], seconds: Mapping[str, float], slots: Slots) -> Estimate:
    """Estimate how long a run takes, from how long its stages take.

    Args:
        graph: of the workspace.
        steps: what it would do.
        seconds: of stages, where known.
        slots: what may run at once; it is used up.
    """
    names = [step.stage for step in steps if step.action in WILL_WORK]
    takes = {name: seconds.get(name, 0.0) for name in names}
    before = {name: _before(graph, name, takes) for name in names}
    longest: dict[str, float] = {}
    for name in names:
        longest[name] = takes[name] + max((longest[other] for other in before[name]), default=0.0)
    return Estimate(
        serial=sum(takes.values()),
        parallel=_scheduled(graph, takes, before, slots),
        critical=max(longest.values(), default=0.0),
        jobs=slots.jobs,
        unknown=tuple(name for name in names if name not in seconds),
    )


def _before(graph: Graph, name: str, chosen: Mapping[str, float]) -> set[str]:
    """Chosen stages that must end before this one begins, with nothing chosen in between or with."""
    found: set[str] = set()
    waiting, seen = list(graph.nodes[name].upstream), set()
    while waiting:
        other = waiting.pop()
        if other in chosen:
            found.add(other)
        elif other not in seen:
            seen.add(other)
            waiting.extend(graph.nodes[other].upstream)
    return found


def _scheduled(graph: Graph, takes: Mapping[str, float], before: Mapping[str, set[str]], slots: Slots) -> float:
    """End of the last stage when each starts, in serial order, as soon as its inputs and a slot are there."""
    waiting, ends, ended, now = list(takes), dict[str, float](), set[str](), 0.0
    while waiting or ends:
        for name in list(waiting):
            if (
                before[name] <= ended
                and slots.take(name, graph.nodes[name].takes, graph.nodes[name].workers) is not None
            ):
                waiting.remove(name)
                ends[name] = now + takes[name]
        first = min(ends, key=lambda name: ends[name])
        now = ends.pop(first)
        ended.add(first)
        slots.release(first)
    return now


class _Planner:
    """Judges stages one after the other, and keeps what each would leave to those after it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._makers: dict[str, list[str]] = {}  # file or folder -> stages that write it, or in it
        for name in graph.nodes:
            for out in graph.stage(name).outs:
                for path in (out.fs_path, *map(str, PurePath(out.fs_path).parents)):
                    self._makers.setdefault(path, []).append(name)
        self._outputs = {out.fs_path for name in graph.nodes for out in graph.stage(name).outs}
        self._actions: dict[str, Action] = {}
        self._expected: dict[str, Any] = {}  # output -> what it would hold, as DVC's hash
        self._hashes: dict[str, Any] = {}
        self._locks: dict[str, Mapping[str, Any]] = {}

    def step(self, name: str) -> Step:
        stage = self.graph.stage(name)
        inputs, unknown = self._inputs(name)
        reasons = tuple(self._reasons(stage, inputs))
        outputs = None if unknown or not reasons else self._restored(stage, inputs)
        action: Action = "run"
        if outputs is not None:
            action = "restore"
        elif not reasons:
            action = "may run" if unknown else "unchanged"
            outputs = None if unknown else {out.fs_path: out.hash_info for out in stage.outs}
        elif _makes_the_same(stage):
            outputs = {out.fs_path: out.hash_info for out in stage.outs if out.hash_info}
        self._actions[name] = action
        self._expected |= outputs or {}
        return Step(name, action, (*reasons, *map(Upstream, unknown)))

    def _inputs(self, name: str) -> tuple[dict[str, Any], list[str]]:
        """Hash of every file that the stage would find, None where there is none; and the stages that leave it open."""
        stage = self.graph.stage(name)
        found: dict[str, Any] = {}
        unknown: dict[str, None] = {}
        for dependency in _files(stage) if not stage.frozen else ():
            path = dependency.fs_path
            makers = [other for other in self._makers_of(path) if self._actions.get(other, "unchanged") != "unchanged"]
            if path in self._expected:
                found[path] = self._expected[path]
            elif makers:
                unknown |= dict.fromkeys(makers)
            else:
                found[path] = self._hash(dependency)
        return found, list(unknown)

    def _makers_of(self, path: str) -> list[str]:
        """Stages that write a file, in a folder, or a folder around it."""
        around = [str(folder) for folder in PurePath(path).parents if str(folder) in self._outputs]
        return list(dict.fromkeys(name for key in (path, *around) for name in self._makers.get(key, ())))

    def _hash(self, dependency: Any) -> Any:
        path = dependency.fs_path
        if path not in self._hashes:
            self._hashes[path] = _lineage.hash_of(dependency) if dependency.exists else None
        return self._hashes[path]

    def _reasons(self, stage: Any, inputs: Mapping[str, Any]) -> Iterator[Reason]:
        """Why the stage would run, apart from what stages before it may do."""
        if stage.is_callback or stage.always_changed:
            yield AlwaysRuns()
        locked = self._lock_of(stage).get(stage.name)
        if locked is None:
            if not stage.is_callback:
                yield NeverRun()
            return
        if stage.cmd_changed:
            yield ChangedCommand(str(locked.get("cmd")), str(stage.cmd))
        for dependency in stage.deps if not stage.frozen else ():
            if _is_parameters(dependency):
                yield from self._parameter_reasons(dependency)
            elif dependency.fs_path in inputs and inputs[dependency.fs_path] != (dependency.hash_info or None):
                yield ChangedFile(str(dependency), _change(dependency.hash_info, inputs[dependency.fs_path]))
        for out in stage.outs:
            for fault in out.status().values():
                yield ChangedOutput(str(out), "missing" if fault == "deleted" else fault)

    def _lock_of(self, stage: Any) -> Mapping[str, Any]:
        """Entries of the dvc.lock beside a dvc.yaml; every stage has a file object of its own, which would read it."""
        if stage.path not in self._locks:
            self._locks[stage.path] = stage.dvcfile.lockfile_contents.get("stages", {})
        return self._locks[stage.path]

    def _parameter_reasons(self, dependency: Any) -> Iterator[ChangedParameter]:
        old, new = dependency.hash_info.value or {}, dependency.read_params()
        for name in dependency.params or dict.fromkeys([*new, *old]):
            yield from parameter_changes(name, old, new)

    def _restored(self, stage: Any, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """What DVC would restore instead of running the stage: output -> hash; as dvc/stage/cache.py `restore`."""
        from dvc.stage.serialize import to_single_stage_lockfile

        if not _may_be_in_run_cache(stage) or any(inputs.get(dep.fs_path) is None for dep in _files(stage)):
            return None
        as_it_was = (
            not stage.cmd_changed
            and all(inputs[dep.fs_path] == dep.hash_info for dep in _files(stage))
            and not any(dep.status() for dep in stage.deps if _is_parameters(dep))
            and all(out.hash_info for out in stage.outs)
        )
        entry = to_single_stage_lockfile(stage) if as_it_was else self._from_run_cache(stage, inputs)
        if entry is None:
            return None
        cached = self.graph.repo.stage_cache._create_stage(entry, wdir=stage.wdir)
        return {out.fs_path: out.hash_info for out in cached.outs} if cached.outs_cached() else None

    def _from_run_cache(self, stage: Any, inputs: Mapping[str, Any]) -> Any:
        """Newest entry of the run cache with these inputs; DVC's own look-up would delete one that it cannot read."""
        from dvc.exceptions import DvcException
        from dvc.schema import COMPILED_LOCK_FILE_STAGE_SCHEMA
        from dvc.stage.cache import _get_cache_hash
        from dvc.stage.serialize import to_single_stage_lockfile
        from dvc.utils.serialize import load_yaml
        from dvc_data.hashfile.meta import Meta
        from voluptuous import Invalid

        future = copy.copy(stage)
        future.deps = [copy.copy(dependency) for dependency in stage.deps]
        for dependency in future.deps:
            known = inputs.get(dependency.fs_path) if not _is_parameters(dependency) else None
            dependency.hash_info = known or _lineage.hash_of(dependency)
            dependency.meta = Meta()  # that of dvc.lock holds the md5 of the last run, too, and it would win
        key = _get_cache_hash(to_single_stage_lockfile(future), key=True)
        folder = self.graph.repo.stage_cache._get_cache_dir(key)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.stat().st_mtime)
            return COMPILED_LOCK_FILE_STAGE_SCHEMA(load_yaml(entries[-1].path)) if entries else None
        except (OSError, DvcException, Invalid):
            return None


def _makes_the_same(stage: Any) -> bool:
    """Whether it is the stage that checks the declaration, whose output never changes."""
    return [out.def_path for out in stage.outs] == [str(CHECKED)]


def _may_be_in_run_cache(stage: Any) -> bool:
    """As DVC's own `_can_hash`, which would look for inputs that are not there yet."""
    if stage.is_callback or stage.always_changed or not (stage.cmd and stage.deps and stage.outs):
        return False
    return all(dep.protocol == "local" and dep.def_path for dep in stage.deps) and all(
        out.protocol == "local" and out.def_path and not out.persist and out.is_in_repo for out in stage.outs
    )


def _files(stage: Any) -> list[Any]:
    return [dependency for dependency in stage.deps if not _is_parameters(dependency)]


def _is_parameters(dependency: Any) -> bool:
    from dvc.dependency.param import ParamsDependency

    return isinstance(dependency, ParamsDependency)


def _change(old: Any, new: Any) -> Literal["new", "modified", "deleted"]:
    if not old:
        return "new"
    return "modified" if new else "deleted"
