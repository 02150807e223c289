"""Why a stage would run. Each reason is a value with the names of its JSON form, and a sentence as its text."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Change = Literal["new", "modified", "deleted"]


@dataclass(frozen=True)
class NeverRun:
    """dvc.lock has no entry for the stage."""

    kind: ClassVar = "never run"

    def __str__(self) -> str:
        return "has never run"


@dataclass(frozen=True)
class AlwaysRuns:
    """The stage depends on nothing, or is declared to run always."""

    kind: ClassVar = "always runs"

    def __str__(self) -> str:
        return "always runs"


@dataclass(frozen=True)
class ChangedCommand:
    """The command is not that of the last run."""

    kind: ClassVar = "command"
    old: str
    new: str

    def __str__(self) -> str:
        return f"command: {self.old} -> {self.new}"


@dataclass(frozen=True)
class ChangedParameter:
    """A value in params.yaml; `old` None if it is new, `new` None if it is deleted."""

    kind: ClassVar = "parameter"
    path: str
    change: Change
    old: Any = None
    new: Any = None

    def __str__(self) -> str:
        if self.change == "modified":
            return f"{self.path}: {_shown(self.old)} -> {_shown(self.new)}"
        return f"{self.path}: {self.change}, {_shown(self.new if self.change == 'new' else self.old)}"


@dataclass(frozen=True)
class ChangedFile:
    """A file or folder that the stage reads."""

    kind: ClassVar = "file"
    path: str
    change: Change

    def __str__(self) -> str:
        return f"{self.path} is {self.change}"


@dataclass(frozen=True)
class ChangedOutput:
    """An output that is not as the stage left it: missing, modified, new in dvc.yaml, or not in DVC's cache."""

    kind: ClassVar = "output"
    path: str
    change: str

    def __str__(self) -> str:
        return f"output {self.path} is {self.change}"


@dataclass(frozen=True)
class Upstream:
    """A stage before it would run, or may, and perhaps make something new."""

    kind: ClassVar = "upstream"
    stage: str

    def __str__(self) -> str:
        return f"if {self.stage} makes something new"


Reason = NeverRun | AlwaysRuns | ChangedCommand | ChangedParameter | ChangedFile | ChangedOutput | Upstream


def parameter_changes(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[ChangedParameter]:
    """Yield every value under a dotted path that differs, each by its own dotted path.

    Args:
        path: a key of both mappings, such as "pretext.simclr"; missing where there is no such parameter.
        old: path -> value at the last run.
        new: path -> value now.
    """
    if path not in new and path not in old:
        return
    if path not in new:
        yield ChangedParameter(path, "deleted", old=old[path])
    elif path not in old:
        yield ChangedParameter(path, "new", new=new[path])
    elif isinstance(old[path], Mapping) and isinstance(new[path], Mapping):
        inner_old = {f"{path}.{key}": value for key, value in old[path].items()}
        inner_new = {f"{path}.{key}": value for key, value in new[path].items()}
        for key in dict.fromkeys([*inner_new, *inner_old]):
            yield from parameter_changes(key, inner_old, inner_new)
    elif _plain(old[path]) != _plain(new[path]):
        yield ChangedParameter(path, "modified", old[path], new[path])


def _plain(value: Any) -> Any:
    """As dvc.lock keeps it: a tuple of a Python parameter file comes back as a list."""
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
