"""What a run's key may be referred to by: the declaration as it is, dvc.lock here and in git, DVC's experiments."""

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.graph import Graph
from stages import _lineage

LOCK = "dvc.lock"


@dataclass(frozen=True)
class References:
    """Keys of runs that something refers to.

    Attributes:
        declared: stage -> the key that a run of it would have now; None while that cannot be told, since a file that
            it reads is not there.
        locked: keys of the runs that dvc.lock in the workspace names.
        committed: keys of the runs that dvc.lock names in any commit that git can still reach, experiments included.
        experiments: names of DVC's experiments.
        doubt: why `committed` may not be complete; empty when it is.
    """

    declared: Mapping[str, str | None]
    locked: frozenset[str]
    committed: frozenset[str]
    experiments: frozenset[str]
    doubt: str = ""

    @property
    def everywhere(self) -> frozenset[str]:
        """Every key that anything refers to."""
        return self.locked | self.committed | {key for key in self.declared.values() if key is not None}


def references(root: Path) -> References:
    """Collect them; nothing is changed.

    Args:
        root: the project, and the working directory.

    Raises:
        DvcException: dvc.yaml has a fault.
    """
    with Graph() as graph:
        declared = {name: _present_key(name, graph.stage(name)) for name in graph.nodes}
    lock = root / LOCK
    locked, doubt = _keys([lock.read_bytes()] if lock.exists() else [])
    blobs, doubt_of_git = _committed_locks(root)
    committed, doubt_of_blobs = _keys(blobs)
    names = git(root, "for-each-ref", "--format=%(refname)", "refs/exps") or b""
    experiments = frozenset(name.rpartition("/")[2] for name in names.decode().split())
    return References(declared, locked, committed, experiments, doubt or doubt_of_git or doubt_of_blobs)


def keys_of_lock(content: bytes) -> frozenset[str]:
    """Keys of the runs that a dvc.lock names, as `stages._lineage` makes them from the files themselves.

    Raises:
        ValueError: it is not a whole dvc.lock.
    """
    try:
        read = YAML(typ="safe").load(content)
        entries = dict(read["stages"]) if read else {}
        return frozenset(_lineage_of(name, entry).key for name, entry in entries.items())
    except (YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a whole {LOCK}: {type(error).__name__}") from None


def _lineage_of(name: str, entry: Mapping[str, Any]) -> _lineage.Lineage:
    parameters: dict[str, Any] = {}
    for values in entry.get("params", {}).values():
        parameters.update(values)
    dependencies = {dependency["path"]: dependency["md5"] for dependency in entry.get("deps", [])}
    return _lineage.Lineage(name, entry["cmd"], dependencies, parameters, ())


def _present_key(name: str, stage: Any) -> str | None:
    from dvc.exceptions import DvcException

    try:
        return _lineage._read(name, stage).key
    except (OSError, DvcException):
        return None


def _keys(contents: Iterable[bytes]) -> tuple[frozenset[str], str]:
    """Keys of several dvc.lock files, and what is wrong with the first that cannot be read."""
    found: set[str] = set()
    doubt = ""
    for content in contents:
        try:
            found |= keys_of_lock(content)
        except ValueError as error:
            doubt = doubt or str(error)
    return frozenset(found), doubt


def _committed_locks(root: Path) -> tuple[list[bytes], str]:
    """Every version of dvc.lock in git, and why some may be missing."""
    if git(root, "rev-parse", "--git-dir") is None:
        return [], "this is no git repository"
    if (git(root, "rev-parse", "--is-shallow-repository") or b"").strip() != b"false":
        return [], "git has only a part of the history ('git fetch --unshallow' brings the rest)"
    path = ((git(root, "rev-parse", "--show-prefix") or b"").strip().decode()) + LOCK
    # reflogs, too: a run of a commit that was amended can still be wanted back
    listed = git(root, "rev-list", "--all", "--reflog", "--full-history", "--objects", "--", LOCK)
    if listed is None:
        return [], "git could not list its commits"
    names = {line.split(" ", 1)[0] for line in listed.decode().splitlines() if line.endswith(f" {path}")}
    contents = [git(root, "cat-file", "blob", name) for name in sorted(names)]
    lost = "git could not read an object" if None in contents else ""
    return [content for content in contents if content is not None], lost


def git(folder: Path, *arguments: str) -> bytes | None:
    """What git prints, or None when it fails."""
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None
