"""Checkpoints that survive a kill at any moment: written aside, flushed, checksummed, renamed into place.

File format: 64 hexadecimal digits (the sha256 of the rest), a line feed, then what `torch.save` writes.
"""

import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any

import torch

from mlml import checkpoint_remote

logger = logging.getLogger(__name__)

KEPT = 2
"""How many checkpoints stay: should the newest be damaged, the one before is there."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names the file and what is wrong with it."""


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` as the checkpoint of `step`, verify it, and remove all but the newest two.

    Args:
        folder: made when it does not exist.
        step: optimizer steps done; names the file.
        state: tensors and plain values only, nested in dicts, lists and tuples.

    Raises:
        CheckpointError: what was written does not read back (a full or failing disk).
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path = folder / f"step_{step:09d}.ckpt"
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(hashlib.sha256(buffer.getbuffer()).hexdigest().encode() + b"\n")
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    _read(partial)  # the older ones go only when this one is known to be good
    partial.replace(path)
    _flush_directory(folder)
    for old in sorted(folder.glob("step_*.ckpt"))[:-KEPT]:
        old.unlink()
    checkpoint_remote.put(folder, path)
    return path


def load_newest(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the newest checkpoint that is whole, or None; each damaged one is named in the log and removed."""
    checkpoint_remote.fetch(folder)
    for path in sorted(folder.glob("step_*.ckpt"), reverse=True):
        try:
            payload = _read(path)
        except CheckpointError as error:
            logger.warning("%s; the checkpoint before it is used", error)
            path.unlink(missing_ok=True)  # several ranks may find it
            continue
        state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
        return state
    return None


def clear(folder: Path) -> None:
    """Remove every checkpoint of a finished run."""
    for path in [*folder.glob("step_*.ckpt"), *folder.glob("step_*.partial")]:
        path.unlink()
    checkpoint_remote.clear(folder)


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: was removed by another rank") from None
    digest, separator, payload = content[:64], content[64:65], content[65:]
    if separator != b"\n" or not payload:
        raise CheckpointError(f"{path}: truncated, {len(content)} bytes")
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise CheckpointError(f"{path}: damaged, its checksum does not match its content")
    return payload


def _flush_directory(folder: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
