"""The workers of a search stage: processes beside it that take part in its search until no trial is left.

A worker says in lines of JSON what its trials are, and each becomes a step of the stage beside the stage's own:

    worker -> stage     ["begin", number], ["end", number, null or fault]

It ends when its standard input does, so that none outlives the stage. One that dies is started anew; whoever looks for
a trial first takes over the one that it was running.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any

from stages import _search_worker
from stages._run import Stage

logger = logging.getLogger(__name__)

MAX_STARTS = 20
"""Of one worker: something is wrong with one that dies more often."""

LAST_SECONDS = 30.0
"""How long the workers have, when the search is over, to see that."""


class Workers:
    """Starts workers, and keeps them running; as a context manager it ends them.

    Args:
        stage: of the search.
        count: of workers, besides the stage's own process.
    """

    def __init__(self, stage: Stage, count: int) -> None:
        self.stage = stage
        self._over = threading.Event()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._threads = [
            threading.Thread(target=self._keep, args=(number,), daemon=True, name=f"search-worker-{number}")
            for number in range(1, count + 1)
        ]

    def __enter__(self) -> "Workers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if kind is not None:  # else they see for themselves that no trial is left
            for process in list(self._processes.values()):
                process.kill()
        for thread in self._threads:
            thread.join(LAST_SECONDS)
        for process in list(self._processes.values()):
            process.kill()

    def _keep(self, number: int) -> None:
        """Run a worker, and another one after it if it dies."""
        for start in range(MAX_STARTS):
            code = self._run(number)
            if code == 0 or self._over.is_set():
                return
            logger.warning("worker %d of the search ended with code %d (start %d)", number, code, start + 1)

    def _run(self, number: int) -> int:
        hearing, telling = os.pipe()
        command = [sys.executable, "-m", _search_worker.__name__, self.stage.name, str(telling)]
        environment = {**os.environ, **_device_of(number), "MLML_STATUS": ""}
        with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[telling], env=environment) as process:
            self._processes[number] = process
            os.close(telling)
            running: dict[int, Any] = {}
            with os.fdopen(hearing) as lines:
                for line in lines:
                    kind, trial, *about = json.loads(line)
                    if kind == "begin":
                        running[trial] = self.stage.steps.beside(f"trial {trial}")
                    else:
                        running.pop(trial)(about[0])
            for end in running.values():
                end(["WorkerDied", f"worker {number} of the search died in it", False])
            assert process.stdin is not None
            process.stdin.close()
            return process.wait()


def _device_of(number: int) -> dict[str, str]:
    """Environment that gives a worker a GPU of its own, as far as the stage has several."""
    devices = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    return {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if len(devices) > 1 else {}
