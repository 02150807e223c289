"""The stages as DVC resolves them: who waits for whom, in which order, and what has changed.

Nothing here runs or writes anything. A `Graph` reads dvc.yaml once; `refresh` reads dvc.lock and the files again. DVC's
objects are not safe between threads: use a graph from one thread only.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from stages._lineage import patiently

Slot = Literal["cpu", "gpu"]


class TargetError(ValueError):
    """A target that names no stage; the message says which exist."""


@dataclass(frozen=True)
class Node:
    """A stage.

    Attributes:
        name: as DVC addresses it, such as "pretext@simclr".
        upstream: stages whose outputs it reads, directly.
        downstream: stages that read its outputs, directly.
        takes: what it occupies while it runs: a processor slot, or a GPU where the machine has one; `meta.takes`.
        here: whether it must run in the coordinator's own workspace, since it reads what git and DVC do not have: raw
            files, or the records of runs; `meta.here`.
        outs: paths.
        workers: processes that it works with side by side, each of which takes a slot: those of a search.
    """

    name: str
    command: str
    upstream: tuple[str, ...]
    downstream: tuple[str, ...]
    takes: Slot
    here: bool
    outs: tuple[str, ...]
    workers: int = 1


class Graph:
    """DVC's graph of the dvc.yaml in the working directory.

    Attributes:
        nodes: by name, in the order in which a serial `dvc repro` goes through them.
    """

    def __init__(self) -> None:
        from dvc.repo import Repo

        # DVC's progress bars and sentences are for its own command line
        logging.getLogger("dvc").setLevel(logging.CRITICAL)
        self.repo: Any = Repo()
        patiently(self._read)

    def __enter__(self) -> "Graph":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.repo.close()

    def refresh(self) -> None:
        """Read dvc.yaml, params.yaml and dvc.lock again."""
        patiently(self._read)

    def select(self, targets: Sequence[str] = ()) -> list[str]:
        """Return targets and all that they depend on, in serial order; no targets mean everything.

        Args:
            targets: as for `dvc repro`: a stage, a group of stages, an output; or the name of an experiment.

        Raises:
            TargetError: a target is none of these.
        """
        from dvc.repo.reproduce import get_active_graph, plan_repro

        wanted = [stage for target in targets for stage in self._collect(target)]
        order = plan_repro(get_active_graph(self.repo.index.graph), wanted or list(self._stages.values()))
        return [stage.addressing for stage in order if stage.addressing in self.nodes]

    def resolve(self, targets: Sequence[str]) -> list[str]:
        """Return the stages that targets name, as DVC addresses them.

        Raises:
            TargetError: a target names none.
        """
        return list(dict.fromkeys(stage.addressing for target in targets for stage in self._collect(target)))

    def after(self, names: Iterable[str]) -> set[str]:
        """Return the stages that depend on some others, at any distance."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            for name in self.nodes[waiting.pop()].downstream:
                if name not in found:
                    found.add(name)
                    waiting.append(name)
        return found

    def stage(self, name: str) -> Any:
        """Return DVC's own object."""
        return self._stages[name]

    def changed(self, name: str) -> bool:
        """Whether `dvc repro` would do something about this stage as the files lie now."""
        stage = self._stages[name]
        # as `Stage.changed`, but without DVC's lock: a look must not disturb a stage that runs
        return bool(
            stage.is_callback
            or stage.always_changed
            or stage.changed_stage()
            or any(dependency.status() for dependency in stage.deps)
            or any(out.status() for out in stage.outs)
        )

    def _read(self) -> None:
        from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

        self.repo._reset()
        active = get_active_graph(self.repo.index.graph)
        order = plan_repro(active, collect_stages(self.repo, ["dvc.yaml"]))
        self._stages = {stage.addressing: stage for stage in order if stage.cmd}
        self.nodes = {
            name: Node(
                name=name,
                command=stage.cmd,
                upstream=self._names(active.successors(stage)),
                downstream=self._names(active.predecessors(stage)),
                takes=(stage.meta or {}).get("takes", "cpu"),
                here=bool((stage.meta or {}).get("here", False)),
                outs=tuple(out.def_path for out in stage.outs),
                workers=_workers(stage),
            )
            for name, stage in self._stages.items()
        }

    def _names(self, stages: Iterable[Any]) -> tuple[str, ...]:
        return tuple(sorted(stage.addressing for stage in stages if stage.addressing in self._stages))

    def _collect(self, target: str) -> list[Any]:
        from dvc.exceptions import DvcException

        meant = [
            stage
            for name, stage in self._stages.items()
            if name.partition("@")[2] == target or target.rstrip("/") in self.nodes[name].outs
        ]
        if len(meant) == 1:
            return meant
        try:
            return list(self.repo.stage.collect(target))
        except DvcException:
            from mlml.config import suggest

            known = sorted({*self.nodes, *(name.partition("@")[2] or name for name in self.nodes)})
            raise TargetError(f"{target!r} names no stage{suggest(target, known)}") from None


def _workers(stage: Any) -> int:
    """What the entry of a stage declares as `workers`; 1 where it declares nothing, or nothing that can be used."""
    from dvc.dependency.param import ParamsDependency

    group, _, name = stage.addressing.partition("@")
    for dependency in stage.deps:
        if isinstance(dependency, ParamsDependency) and f"{group}.{name}" in dependency.params:
            entry = dependency.read_params().get(f"{group}.{name}")
            declared = entry.get("workers", 1) if isinstance(entry, dict) else 1
            return declared if isinstance(declared, int) and declared > 0 else 1
    return 1
