"""Where a stage's result comes from: its command, parameters and the md5s of what it reads, as DVC itself sees them.

The key of a stage is a hash of all that. Checkpoints and run records lie under it, so that what was made from other
code, data or numbers is never picked up.
"""

import hashlib
import json
import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

PATIENCE_SECONDS = 10.0
"""How long a dvc.lock may be half a file; another `dvc` writes it in place, within milliseconds."""

T = TypeVar("T")


@dataclass(frozen=True)
class Lineage:
    """What determines the result of one stage."""

    stage: str  # as DVC addresses it, such as "pretext@simclr"
    command: str
    dependencies: Mapping[str, str]  # path -> md5
    parameters: Mapping[str, Any]
    outputs: tuple[str, ...]  # paths

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits; equal when nothing that the result depends on has changed."""
        facts = [self.stage, self.command, sorted(self.dependencies.items()), self.parameters]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def of(stage: str) -> Lineage:
    """Return the lineage of a stage of the dvc.yaml in the working directory, from the files as they lie there."""
    return of_all([stage])[stage]


def of_all(stages: Iterable[str]) -> dict[str, Lineage]:
    """Return the lineage of several stages, by their names."""
    names = list(stages)

    def read() -> dict[str, Lineage]:
        with _repository() as repo:
            # all at once: DVC parses dvc.lock anew for each stage that it is asked for by name
            if len(names) == 1:
                return {names[0]: _read(names[0], *repo.stage.collect(names[0]))}
            found = {stage.name: stage for stage in repo.stage.load_all()}
            return {name: _read(name, found[name]) for name in names}

    return patiently(read)


def patiently(read: Callable[[], T]) -> T:
    """Call what reads dvc.lock, and call it again as long as another `dvc` is in the middle of writing that file."""
    from dvc.utils.serialize import YAMLFileCorruptedError
    from dvc.utils.strictyaml import YAMLValidationError

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return read()
        except (YAMLFileCorruptedError, YAMLValidationError) as error:
            if "dvc.lock" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _repository() -> Any:
    """Open DVC's repository, without its progress bars: the stage shows its own."""
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    return Repo()


def hash_of(file: Any) -> Any:
    """Return the hash of a dependency or an output as DVC will put it into dvc.lock.

    For a file that dvc.lock does not know of a stage that it knows, DVC takes the hash of its second version until the
    stage has run.
    """
    file.update_legacy_hash_name()
    return file.get_hash()


def _read(name: str, stage: Any) -> Lineage:
    from dvc.dependency.param import ParamsDependency

    parameters: dict[str, Any] = {}
    dependencies: dict[str, str] = {}
    for dependency in stage.deps:
        if isinstance(dependency, ParamsDependency):
            parameters.update(dependency.read_params())
        else:
            dependencies[dependency.def_path] = hash_of(dependency).value
    return Lineage(name, stage.cmd, dependencies, parameters, tuple(out.def_path for out in stage.outs))


def run_folder(root: Path, lineage: Lineage) -> Path:
    """Return the folder of a stage's run records and checkpoints."""
    return root / ".mlml" / "runs" / lineage.stage / lineage.key


def hashes(stage: str) -> dict[str, str]:
    """Return the md5s, as tags, of what a stage that is done has read and written: what DVC will put into dvc.lock."""

    def read() -> dict[str, str]:
        with _repository() as repo:
            [found] = repo.stage.collect(stage)
            inputs = {f"dvc.dep.{path}": md5 for path, md5 in _read(stage, found).dependencies.items()}
            return inputs | {f"dvc.out.{out.def_path}": hash_of(out).value for out in found.outs if out.exists}

    return patiently(read)


def git_state(folder: Path) -> tuple[str, bool]:
    """Return the commit, and whether files differ from it; "" outside of a repository.

    dvc.lock and reports/ do not count: DVC itself rewrites them while it runs.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--", ".", ":!dvc.lock", ":!reports")
    return commit, bool(changed)


def store_root() -> Path:
    """Return the folder that holds .mlml: the repository's, also from an isolated copy of `dvc exp run --temp`."""
    return Path(os.environ.get("DVC_ROOT", Path.cwd()))


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
