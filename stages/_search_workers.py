"""The workers of a search stage: processes beside it that take part in its search until no trial is left.

They are begun with the stage, to import what they need while it does, and hear from it when the search is there. A
worker says in lines of JSON what its trials are, and each becomes a step of the stage beside the stage's own:

    stage -> worker     "go"
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
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mlml import beside, status
from stages import _search_worker, _warm
from stages._run import Stage

logger = logging.getLogger(__name__)

MAX_STARTS = 20
"""Of one worker: something is wrong with one that dies more often."""

LAST_SECONDS = 30.0
"""How long the workers have, when the search is over, to see that."""


class Worker:
    """The process of a worker.

    Args:
        name: of the search.
        number: of the worker; the stage itself is number 0.
        fork: fork this process, which has imported what it needs, and has no thread yet.

    Attributes:
        lines: what it says.
    """

    def __init__(self, name: str, number: int, fork: bool = False) -> None:
        hearing, telling = os.pipe()
        environment = {**os.environ, **_device_of(number), status.VARIABLE: ""}
        self._process: beside.Process
        if fork:

            def work(told: Any) -> int:
                os.environ.update(environment)
                os.environ.pop(_warm.CLIENT, None)
                return _search_worker.follow(name, told, telling)

            self._process = beside.Fork(work)
        else:
            command = [sys.executable, "-m", _search_worker.__name__, name, str(telling)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[telling], env=environment)
        os.close(telling)  # before another worker inherits it
        self.lines = os.fdopen(hearing)
        self._ended = threading.Lock()
        self._code: int | None = None

    def go(self) -> None:
        """Let it look for trials."""
        beside.tell(self._process, _search_worker.GO)

    def wait(self) -> int:
        """Wait for the end of one that says nothing any more, and return its exit code."""
        code = beside.end(self._process, LAST_SECONDS)
        with self._ended:
            self._code = -9 if code is None else code
        return self._code

    def kill(self) -> None:
        """End it, if it has not ended."""
        with self._ended:
            if self._code is None:
                self._process.kill()


class Workers:
    """Keeps the workers of a stage running; as a context manager it ends them.

    Args:
        stage: of the search; `early` holds the workers that were begun with it.
        count: of workers, besides the stage's own process.
    """

    def __init__(self, stage: Stage, count: int) -> None:
        self.stage = stage
        self._over = threading.Event()
        self._workers: dict[int, Worker] = dict(enumerate((stage.early or [])[:count], 1))
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
            self._kill()
        for thread in self._threads:
            thread.join(LAST_SECONDS)
        self._kill()

    def _kill(self) -> None:
        for worker in list(self._workers.values()):
            worker.kill()

    def _keep(self, number: int) -> None:
        """Run a worker, and another one after it if it dies."""
        for start in range(MAX_STARTS):
            if start > 0 or number not in self._workers:
                self._workers[number] = Worker(self.stage.name, number)
            code = self._hear(number, self._workers[number])
            if code == 0 or self._over.is_set():
                return
            logger.warning("worker %d of the search ended with code %d (start %d)", number, code, start + 1)

    def _hear(self, number: int, worker: Worker) -> int:
        running: dict[int, Any] = {}
        worker.go()
        with worker.lines as lines:
            for line in lines:
                kind, trial, *about = json.loads(line)
                if kind == "begin":
                    running[trial] = self.stage.steps.beside(f"trial {trial}")
                else:
                    running.pop(trial)(about[0])
        for end in running.values():
            end(["WorkerDied", f"worker {number} of the search died in it", False])
        return worker.wait()


def begin(name: str, fork: bool) -> list[Worker]:
    """Begin the workers that a search declares besides its stage; of one that has faults, none."""
    with suppress(OSError, YAMLError):
        content = YAML(typ="safe").load(Path("params.yaml"))
        entry = (content.get("search") or {}).get(name) if isinstance(content, Mapping) else None
        count = entry.get("workers", 1) if isinstance(entry, Mapping) else 1
        if isinstance(count, int):
            return [Worker(name, number, fork) for number in range(1, count)]
    return []


def _device_of(number: int) -> dict[str, str]:
    """Environment that gives a worker a GPU of its own, as far as the stage has several."""
    devices = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    return {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if len(devices) > 1 else {}
