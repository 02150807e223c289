"""What one run of a stage read and left, as dvc.lock tells it, or the tags of its MLflow run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages._lineage import Lineage


class WhyError(ValueError):
    """A question that has no answer; the message says what would have one."""


@dataclass(frozen=True)
class Making:
    """One run of a stage.

    Attributes:
        inputs: md5 of each path that it read, data and code.
        outputs: md5 of each path that it wrote.
        key: as the MLflow run carries it, `dvc.key`.
        locked: dvc.lock holds it; else only MLflow remembers it.
    """

    stage: str
    command: str
    inputs: Mapping[str, str]
    parameters: Mapping[str, Any]
    outputs: Mapping[str, str]
    key: str
    locked: bool

    @classmethod
    def from_tags(cls, tags: Mapping[str, str], parameters: Mapping[str, Any]) -> "Making":
        """Return what the tags of a stage's MLflow run tell."""
        return cls(
            stage=tags["dvc.stage"],
            command=tags["dvc.cmd"],
            inputs=_tagged(tags, "dvc.dep."),
            parameters=parameters,
            outputs=_tagged(tags, "dvc.out."),
            key=tags["dvc.key"],
            locked=False,
        )


def read_lock(folder: Path) -> dict[str, Making]:
    """Return what dvc.lock holds of each stage.

    Raises:
        WhyError: there is no dvc.lock.
    """
    path = folder / "dvc.lock"
    if not path.exists():
        raise WhyError(f"{path}: does not exist, so nothing was made here yet; 'mlml repro' makes it")
    return {name: _locked(name, entry) for name, entry in YAML(typ="safe").load(path)["stages"].items()}


def makers(lock: Mapping[str, Making], path: str) -> list[Making]:
    """Return the stages that write a path, something in it, or the folder that it lies in."""
    return [m for m in lock.values() if any(covers(out, path) or covers(path, out) for out in m.outputs)]


def covers(folder: str, path: str) -> bool:
    """Whether a path is another, or lies in it."""
    return path == folder or path.startswith(f"{folder}/")


def _locked(name: str, entry: Mapping[str, Any]) -> Making:
    inputs, outputs = _hashes(entry.get("deps", ())), _hashes(entry.get("outs", ()))
    parameters = {key: value for file in entry.get("params", {}).values() for key, value in file.items()}
    key = Lineage(name, entry["cmd"], inputs, parameters, tuple(outputs)).key
    return Making(name, entry["cmd"], inputs, parameters, outputs, key, locked=True)


def _hashes(entries: Any) -> dict[str, str]:
    return {entry["path"]: entry.get(entry.get("hash", "md5"), "") for entry in entries}


def _tagged(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in tags.items() if key.startswith(prefix)}
