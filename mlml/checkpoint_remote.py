"""Copies of checkpoints on a place that outlives the machine: a folder or a bucket, if the environment names one.

A run's place there is its folder's path below `.mlml/runs`: stage, key, seed. So another machine that is given the same
stage with the same inputs finds them. An object holds a checkpoint and the metric points up to it, since a training
that goes on elsewhere must end with all of its points:

    64 hexadecimal digits (the sha256 of the rest), a line feed, the number of bytes of points, a line feed, the points,
    the checkpoint's file as it is.

A remote that fails never ends a training: one warning is given, and a minute later it is tried again.
"""

import hashlib
import logging
import os
import time
from pathlib import Path, PurePosixPath
from typing import Any

logger = logging.getLogger(__name__)

VARIABLE = "MLML_CHECKPOINT_REMOTE"
"""Environment variable: a folder, or a URL that fsspec opens, such as s3://bucket/prefix."""

KEPT = 2
POINTS = "points.jsonl"
RETRY_SECONDS = 60.0
"""How long a remote that failed is left alone."""

# one that hangs must not hold up a training for long
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}}}
}

_failed_at: float | None = None
_warned = False


def put(folder: Path, checkpoint: Path) -> None:
    """Copy a checkpoint that was just written, with the points so far, and remove all but the newest two copies."""
    place = _place(folder)
    if place is None or _resting():
        return
    try:
        points = folder / POINTS
        _write(place, checkpoint.name, _packed(points.read_bytes() if points.exists() else b"", checkpoint))
        for old in _names(place)[:-KEPT]:
            _filesystem(place).rm_file(f"{_path(place)}/{old}")
    except Exception as error:
        _fail("not copied to", place, error)


def fetch(folder: Path) -> None:
    """Bring the newest whole copy into the folder, with its points, unless what is there is as new."""
    place = _place(folder)
    if place is None or _resting():
        return
    here = max((path.name for path in folder.glob("step_*.ckpt")), default="")
    try:
        for name in reversed(_names(place)):
            if name <= here:
                return
            content = _unpacked(_filesystem(place).cat_file(f"{_path(place)}/{name}"))
            if content is None:
                logger.warning("%s/%s: damaged, its checksum does not match; the one before it is used", place, name)
                continue
            _keep(folder, name, *content)
            logger.info("checkpoint %s comes from %s", name, place)
            return
    except Exception as error:
        _fail("not fetched from", place, error)


def clear(folder: Path) -> None:
    """Remove the copies of a run that has ended."""
    place = _place(folder)
    if place is None or _resting():
        return
    try:
        for name in _names(place):
            _filesystem(place).rm_file(f"{_path(place)}/{name}")
    except Exception as error:
        _fail("not removed from", place, error)


def _place(folder: Path) -> str | None:
    """URL of a run's copies; None without a remote, or for a folder that belongs to no stage."""
    remote = os.environ.get(VARIABLE)
    parts = folder.resolve().parts
    runs = [n for n in range(len(parts) - 2) if parts[n : n + 2] == (".mlml", "runs")]
    if not remote or not runs:
        return None
    return "/".join([remote.rstrip("/"), *parts[runs[-1] + 2 :]])


def _packed(points: bytes, checkpoint: Path) -> bytes:
    rest = b"%d\n" % len(points) + points + checkpoint.read_bytes()
    return hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def _unpacked(content: bytes) -> tuple[bytes, bytes] | None:
    """(points, checkpoint); None if the content is not what was written."""
    digest, _, rest = content.partition(b"\n")
    if hashlib.sha256(rest).hexdigest().encode() != digest:
        return None
    length, _, rest = rest.partition(b"\n")
    return rest[: int(length)], rest[int(length) :]


def _keep(folder: Path, name: str, points: bytes, checkpoint: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / POINTS).open("wb") as file:  # in place: the loop has the file open
        file.write(points)
    partial = folder / f"{name}.fetched"
    partial.write_bytes(checkpoint)
    partial.replace(folder / name)  # last, and as a whole: a kill before this leaves no checkpoint without its points


def _names(place: str) -> list[str]:
    """Names of the copies, oldest first."""
    filesystem = _filesystem(place)
    filesystem.invalidate_cache()  # another machine writes there
    try:
        found = filesystem.ls(_path(place), detail=False)
    except FileNotFoundError:
        return []
    names = (PurePosixPath(path).name for path in found)
    return sorted(name for name in names if name.startswith("step_") and name.endswith(".ckpt"))


def _write(place: str, name: str, content: bytes) -> None:
    """Write an object: whoever reads it meets all of it or none."""
    from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

    filesystem, path = _filesystem(place), f"{_path(place)}/{name}"
    if not isinstance(filesystem, LocalFileSystem):
        filesystem.pipe_file(path, content)  # an object store shows it when it is whole
        return
    partial = Path(f"{path}.{os.getpid()}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _filesystem(place: str) -> Any:
    import fsspec  # type: ignore[import-untyped]

    protocol = place.partition("://")[0] if "://" in place else "file"
    return fsspec.filesystem(protocol, **_OPTIONS.get(protocol, {}))


def _path(place: str) -> str:
    return str(_filesystem(place)._strip_protocol(place))


def _resting() -> bool:
    return _failed_at is not None and time.monotonic() - _failed_at < RETRY_SECONDS


def _fail(what: str, place: str, error: Exception) -> None:
    global _failed_at, _warned
    _failed_at = time.monotonic()
    if not _warned:
        _warned = True
        logger.warning("checkpoints are %s %s (%s: %s); the training goes on", what, place, type(error).__name__, error)
