"""Several machines on one: a bare git repository, a DVC remote, a coordinator and workers, each in its own clone."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from project import Project, declaration

TEN_STAGES = declaration(
    "steps: 8, batch_size: 64, log_every: 2, evaluate_every: 4, checkpoint_every: 4",
    """
supervised:
  classifier: {method: classifier, dataset: digits, encoder: *encoder, train: *train}
pretext:
  random: {method: random, dataset: digits, encoder: *encoder}
  rotation: {method: rotation, dataset: digits, encoder: *encoder, train: *train}
probe:
  random_knn: {method: knn, dataset: digits, encoder: random}
  random_linear: {method: linear, dataset: digits, encoder: random, train: {steps: 6}}
  rotation_knn: {method: knn, dataset: digits, encoder: rotation}
generative:
  vae: {method: vae, dataset: digits, encoder: *encoder, train: *train, latent_dim: 4}
report: {title: Machines}
""",
    trials=2,
    width=8,
)
ALL = ("check", "prepare", "supervised", "pretext", "probe", "generative", "search")  # all but the report: ten stages
REPORTED = ("metrics", "curves", "diagnostics", "figures", "search")
OUTPUTS = ("models", *(f"reports/{part}" for part in REPORTED), "data/prepared")


class Machines:
    """Machines that share a git remote and a DVC remote; the coordinator is `project`."""

    def __init__(self, project: Project, folder: Path, dvc_remote: dict[str, str], **environment: str) -> None:
        self.project, self.folder = project, folder
        project.environment = self.environment = {**project.environment, **environment}
        project.run("git", "init", "-q", "--bare", str(folder / "bare.git"))
        project.run("git", "remote", "add", "origin", str(folder / "bare.git"))
        project.run("dvc", "remote", "add", "--default", "shared", dvc_remote["url"])
        for key, value in dvc_remote.items():
            if key != "url":
                project.run("dvc", "remote", "modify", "shared", key, value)
        with (project.folder / ".git" / "info" / "exclude").open("a") as exclude:
            exclude.write("started.log\n")  # the tests' own
        self.publish("Share")

    def publish(self, message: str) -> None:
        self.project.run("git", "add", "-A")
        self.project.run("git", "commit", "-qm", message)
        self.project.run("git", "push", "-q", "origin", "HEAD")

    @contextmanager
    def worker(self, name: str, pool: str, slots: int = 1) -> Iterator[subprocess.Popen]:
        """A worker in a clone of its own, until SIGTERM."""
        clone = self.folder / name
        if not clone.exists():
            self.project.run("git", "clone", "-q", str(self.folder / "bare.git"), str(clone))
        words = self.project.command("mlml", "worker", "--pool", pool, "--name", name, "--slots", str(slots))
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                words, cwd=clone, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            deadline = time.monotonic() + 90
            while "started!" not in self.log(name):
                assert process.poll() is None, self.log(name)
                assert time.monotonic() < deadline, self.log(name)
                time.sleep(0.1)
            yield process
        finally:
            family = everything_below(process)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            for child in family:
                try:
                    child.kill()
                except psutil.Error:
                    continue

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def ran(self, name: str) -> list[str]:
        """Stages that a worker has run, as its log has them."""
        lines = self.log(name).splitlines()
        return [line.split("Running stage '")[1].split("'")[0] for line in lines if "Running stage '" in line]

    def left_behind(self) -> tuple[str, dict[str, str]]:
        return (self.project.folder / "dvc.lock").read_text(), self.project.hashes(*OUTPUTS)


_serial: dict[tuple[str, ...], tuple[str, dict[str, str]]] = {}


def serial_run(folder: Path, environment: dict[str, str], declaration: str, *targets: str) -> tuple[str, dict]:
    """What `dvc repro` on one machine leaves; run once for each declaration."""
    key = (declaration, *targets)
    if key not in _serial:
        project = Project(folder, environment)
        project.declare(declaration)
        project.run("git", "commit", "-qam", "Declare")
        project.repro(*targets)
        _serial[key] = (folder / "dvc.lock").read_text(), project.hashes(*OUTPUTS)
    return _serial[key]


def everything_below(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        return []


def until(what: Callable[[], object], process: subprocess.Popen, seconds: float = 300) -> None:
    """Wait for something that a process brings about."""
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def lose_power(process: subprocess.Popen) -> None:
    """Kill a worker and all that runs below it at once, as when its machine dies."""
    os.kill(process.pid, signal.SIGSTOP)  # so that it reports nothing of the others' ends
    family = everything_below(process)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
