"""What stages side by side may occupy: processor slots, and one slot for each GPU."""

import os
import shutil
import subprocess
from collections.abc import Mapping

from pipelines.graph import Slot

THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Slots:
    """Free slots of this machine.

    Args:
        jobs: stages that may run at once, of either kind.
        gpus: indices or UUIDs of the GPUs; a stage that takes one where there is none takes a processor slot.
    """

    def __init__(self, jobs: int, gpus: tuple[str, ...] = ()) -> None:
        self.jobs = jobs
        self._gpus = list(gpus)
        self._has_gpus = bool(gpus)
        self._taken: dict[str, str | None] = {}  # stage -> its GPU, or None

    def take(self, stage: str, kind: Slot) -> Mapping[str, str] | None:
        """Occupy a slot for a stage; return the environment that goes with it, or None when none is free."""
        if len(self._taken) >= self.jobs:
            return None
        if kind != "gpu" or not self._has_gpus:
            self._taken[stage] = None
            return {"CUDA_VISIBLE_DEVICES": ""} if self._has_gpus else {}
        if not self._gpus:
            return None
        gpu = self._gpus.pop(0)
        self._taken[stage] = gpu
        return {"CUDA_VISIBLE_DEVICES": gpu}

    def release(self, stage: str) -> None:
        """Free what a stage occupied."""
        gpu = self._taken.pop(stage)
        if gpu is not None:
            self._gpus.append(gpu)


def gpus() -> tuple[str, ...]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; no torch import."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(part.strip() for part in visible.split(",") if part.strip() not in ("", "-1"))
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return tuple(line.strip() for line in listed.stdout.splitlines() if line.strip().isdigit())


def default_jobs(threads: int, num_gpus: int) -> int:
    """As many stages as the cores can take at `threads` each, and at least one for each GPU."""
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // threads, num_gpus)


def thread_limits(threads: int) -> dict[str, str]:
    """Environment of stages side by side: threads that wait must sleep, or they slow down their neighbours."""
    return {**dict.fromkeys(THREAD_LIMITS, str(threads)), "OMP_WAIT_POLICY": "PASSIVE"}
