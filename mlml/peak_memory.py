"""The most memory that a training held at once: of the GPU's it took, or of this process where it has none."""

import resource
import sys
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"  # proc(5): sets the peak back to what is held now


def reset(device: torch.device) -> None:
    """Begin to measure: forget how much was held before. Where the system cannot, the peak is that of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _RESET.write_text(_FORGET_PEAK)
    except OSError:  # another system than Linux, or one that does not let a process do this
        return


def peak_bytes(device: torch.device) -> int:
    """Return the most bytes held since `reset`.

    Of a GPU, those of tensors, as torch's allocator counts them. Otherwise the resident memory of the whole process,
    interpreter and libraries included, the data that lies in memory, and what is freed and kept (`mlml.heap`).
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most  # macOS counts bytes, others KiB
