"""Metric points on disk: an append-only file beside the checkpoints, so that no point needs a server to survive.

One JSON object a line: {"name": "train/loss", "step": 20, "value": 0.5, "time": 1700000000000}, time in ms.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path


class Points:
    """The points of one run.

    A loop that goes on from a checkpoint first cuts the file back to the checkpoint's `offset`; then it writes the
    same points again, since a resumed run is the same run.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one point for each value."""
        now = int(time.time() * 1000)
        lines = [json.dumps({"name": k, "step": step, "value": v, "time": now}) + "\n" for k, v in values.items()]
        self._file.write("".join(lines).encode())
        self._file.flush()

    def offset(self) -> int:
        """Force what was written to disk, and return the size of the file in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def cut(self, offset: int) -> None:
        """Drop everything after the first `offset` bytes."""
        self._file.truncate(offset)
        self._file.seek(offset)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> list[tuple[str, int, float]]:
    """Return every point (name, step, value) of a file, in the order of writing, but a half-written last line."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [(point["name"], point["step"], _number(point["value"])) for point in map(json.loads, lines)]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
