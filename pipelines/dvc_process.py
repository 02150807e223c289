"""A `dvc` that runs stages as a process of its own: its output, its end, and how it is ended."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

Outcome = Literal["ran", "restored", "unchanged", "failed"]

GRACE_SECONDS = 15.0
BUSY_SECONDS = 2.0
"""Between two tries when another `dvc` works on the same files."""

# what DVC prints
_RUNNING = "Running stage '"
_RESTORED = " is cached - skipping run"
_BUSY = (" is busy, it is being blocked by", "Unable to acquire lock")

# what it prints after every stage, about the next commit
_CHATTER = (
    *("Updating lock file", "Generating lock file", "To track the changes with git", "To enable auto staging"),
    *("\tgit add ", "\tdvc config core.autostage", "Use `dvc push`", "> "),
)
_EXITED = re.compile(r"failed to run: .*, exited with (-?\d+)$")
_CLOCK = re.compile(r"\d\d:\d\d:\d\d ")

# SIGTERM when the thread that starts it ends, also by SIGKILL of the whole process; a shell's background job ignores
# SIGINT, and children inherit that, but an interrupt is how a stage is told to end
_BEGIN = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, 15); signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "os.getppid() == int(sys.argv[1]) or os._exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


@dataclass(frozen=True)
class Ended:
    """How the process ended; outcome and code are those of its one stage, or the code DVC's own if none ran."""

    outcome: Outcome
    code: int


class DvcProcess:
    """Runs one `dvc` command. `run` is called in a thread of its own; `end` may be called from any.

    Args:
        module: with DVC's command line.
        words: of the command.
        folder: to run it in.
        environment: over that of this process.
        log: file for what it prints.
    """

    def __init__(
        self, module: str, words: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        self.folder, self.log = folder, log
        dvc = [sys.executable, "-m", module, "--wait-for-lock", *words]
        self._command = [sys.executable, "-I", "-S", "-c", _BEGIN, str(os.getpid()), *dvc]
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[str] | None = None
        self._exited: int | None = None  # the stage, as DVC tells it
        self._ending = False

    def run(self, say: Callable[[str], None]) -> Ended:
        """Run to the end, hand over each line that it prints, and keep all in the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as log:
            while True:
                code, signs = self._once(say, log)
                if code == 0 or self._ending or not signs & {*_BUSY}:
                    break
                say("another dvc works on the same files; waiting for it")
                time.sleep(BUSY_SECONDS)
        if code != 0:
            return Ended("failed", self._exited or code)
        return Ended("ran" if _RUNNING in signs else "restored" if _RESTORED in signs else "unchanged", 0)

    def end(self) -> None:
        """Interrupt it, as Ctrl-C would: the stage ends, its checkpoints stay. What does not end soon is killed."""
        self._ending = True
        process = self._process
        if process is None:
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if process.poll() is not None and not _group_lives(process.pid):
                return
            _signal_group(process.pid, number)
            deadline = time.monotonic() + GRACE_SECONDS
            while time.monotonic() < deadline and (process.poll() is None or _group_lives(process.pid)):
                time.sleep(0.02)

    def _once(self, say: Callable[[str], None], log: TextIO) -> tuple[int, set[str]]:
        """Exit code, and what DVC said of the known sentences."""
        signs: set[str] = set()
        if self._ending:
            return 1, signs
        self._process = process = subprocess.Popen(
            self._command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        if self._ending:  # `end` came between the question above and the start
            _signal_group(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                log.write(line)
                log.flush()
                signs |= {sign for sign in (_RUNNING, _RESTORED, *_BUSY) if sign in line}
                if told := _EXITED.search(line.rstrip()):
                    self._exited = int(told.group(1))
                if line.strip() and not line.startswith(_CHATTER):
                    say(_CLOCK.sub("", line.rstrip(), count=1) if _CLOCK.match(line) else line.rstrip())
        return process.wait(), signs


def stage_process(folder: Path, stage: str, environment: Mapping[str, str], force: bool, log: Path) -> DvcProcess:
    """Return what runs one stage alone."""
    words = ["repro", "--single-item", *(["--force"] if force else []), stage]
    return DvcProcess("dvc", words, folder, environment, log)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
