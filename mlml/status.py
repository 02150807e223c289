"""What this process is doing now, for whoever watches it: a small JSON file, if the environment names one.

A run's own record is `points.jsonl`; this file is overwritten and worth nothing once the process has ended.
"""

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "MLML_STATUS"
"""Environment variable with the path to write to."""

EVERY_SECONDS = 1.0


@dataclass
class Status:
    """The state of a process.

    Attributes:
        task: the named step that it is in.
        step: steps of training done, of `steps`; 0 of 0 where nothing is counted.
        seconds_left: of this count; None while unknown.
        note: loss and speed, for people.
    """

    task: str = ""
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    note: str = ""


_status = Status()
_written = -EVERY_SECONDS


def begin(task: str) -> None:
    """Say that a named step begins."""
    global _status
    _status = Status(task)
    _write()


def count(step: int, steps: int, seconds_left: float | None, note: str = "") -> None:
    """Say how far the step is; at most every `EVERY_SECONDS` this is written."""
    _status.step, _status.steps, _status.seconds_left, _status.note = step, steps, seconds_left, note
    if time.monotonic() - _written >= EVERY_SECONDS:
        _write()


def read(path: Path) -> Status | None:
    """Return what a process wrote; None if it wrote nothing yet."""
    try:
        return Status(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def clock(seconds: float) -> str:
    """Write a duration as minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _write() -> None:
    global _written
    path = os.environ.get(VARIABLE)
    if path:
        _written = time.monotonic()
        with contextlib.suppress(OSError):  # a full disk must not end a training over this
            Path(f"{path}.partial").write_text(json.dumps(asdict(_status)))
            Path(f"{path}.partial").replace(path)
