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
        self._num_gpus = len(gpus)
        self._taken: dict[str, tuple[int, list[str]]] = {}  # stage -> its slots, and which of them are GPUs

    def take(self, stage: str, kind: Slot, count: int = 1) -> Mapping[str, str] | None:
        """Occupy slots for a stage; return the environment that goes with them, or None when too few are free.

        A stage of more workers than the machine has slots takes them all.
        """
        wanted = min(count, self.jobs)
        if sum(slots for slots, _ in self._taken.values()) + wanted > self.jobs:
            return None
        if kind != "gpu" or not self._num_gpus:
            self._taken[stage] = wanted, []
            return {"CUDA_VISIBLE_DEVICES": ""} if self._num_gpus else {}
        num_gpus = min(count, self._num_gpus)
        if len(self._gpus) < num_gpus:
            return None
        own, self._gpus = self._gpus[:num_gpus], self._gpus[num_gpus:]
        self._taken[stage] = wanted, own
        return {"CUDA_VISIBLE_DEVICES": ",".join(own)}

    def release(self, stage: str) -> None:
        """Free what a stage occupied."""
        self._gpus += self._taken.pop(stage)[1]


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
