"""A project of its own for a test of the pipeline: a copy of the code, with a tiny declaration."""

import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from ruamel.yaml import YAML

from stages._warm_start import warm

ROOT = Path(__file__).resolve().parents[2]
CODE = (
    "mlml",
    "stages",
    "pipelines",
    "dvc.yaml",
    "Makefile",
    ".dvcignore",
    ".gitignore",
    ".dvc/config",
    ".dvc/.gitignore",
)


def declaration(train: str, experiments: str, trials: int = 0, width: int = 16) -> str:
    """A params.yaml of experiments on the embedded digits.

    Args:
        train: how an experiment that says `train: *train` is trained.
        experiments: the other sections; there too, `encoder: *encoder` is a perceptron with one hidden layer.
        trials: of a search for the learning rate of `classifier`; 0 declares none.
        width: of the hidden layer.
    """
    search = "{}"
    if trials:
        search = f"""
  rate:
    method: random
    experiment: classifier
    objective: classifier
    dataset: digits
    space: {{train.optimizer.learning_rate: {{type: float, low: 0.001, high: 0.1, log: true}}}}
    trials: {trials}"""
    return f"""
threads: 1
data:
  digits: {{source: digits}}
protocol:
  encoder: &encoder {{network: mlp, hidden_widths: [{width}]}}
  train: &train {{{train}}}
{experiments.strip()}
search: {search}
"""


TINY = declaration(
    "steps: 12, batch_size: 64, log_every: 2, evaluate_every: 4, checkpoint_every: 5",
    """
supervised:
  classifier: {method: classifier, dataset: digits, encoder: *encoder, train: *train}
pretext:
  random: {method: random, dataset: digits, encoder: *encoder, seeds: [0, 1]}
  rotation: {method: rotation, dataset: digits, encoder: *encoder, train: *train}
  simclr: {method: simclr, dataset: digits, encoder: *encoder, train: *train, seeds: [0, 1]}
probe:
  simclr_linear: {method: linear, dataset: digits, encoder: simclr, seeds: [0, 1], train: {steps: 10}}
  random_linear: {method: linear, dataset: digits, encoder: random, seeds: [0, 1], train: {steps: 10}}
  rotation_knn: {method: knn, dataset: digits, encoder: rotation}
generative:
  vae: {method: vae, dataset: digits, encoder: *encoder, train: *train, latent_dim: 4}
report: {title: Tiny}
""",
    trials=3,
)


class Project:
    """A copy of the project in a folder of its own, with a declaration of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, dict(environment)
        for name in CODE:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, target)
        # `make` finds the set-up done, in the environment that the tests run in
        (folder / ".venv").symlink_to(sys.prefix)
        if not (folder / ".venv" / "ready").exists():
            (folder / ".venv" / "ready").touch()
        for name in ("requirements.lock", "pyproject.toml"):
            (folder / name).touch()
            os.utime(folder / name, (0, 0))
        (folder / "data" / "raw").mkdir(parents=True)
        (folder / "data" / "raw" / ".gitkeep").touch()
        self.declare(TINY)
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Begin"]):
            self.run("git", *command)

    def declare(self, text: str) -> None:
        (self.folder / "params.yaml").write_text(text)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text()
        assert old in text
        (self.folder / path).write_text(text.replace(old, new))

    def command(self, *words: str) -> list[str]:
        """A program of the environment that the tests run in."""
        return [
            str(Path(sys.executable).parent / words[0]) if words[0] in ("dvc", "python", "mlml") else words[0],
            *words[1:],
        ]

    def run(self, *words: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, (
            f"{words} exited with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        )
        return done.stdout + done.stderr

    def start(self, *words: str) -> subprocess.Popen:
        log = (self.folder / "started.log").open("ab")
        return subprocess.Popen(
            self.command(*words), cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
        )

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro`, and return the stages that ran."""
        printed = self.run("dvc", "repro", *arguments)
        return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]

    def warm(self) -> AbstractContextManager[None]:
        """Have stages forked by a warm parent while the body runs, as `make up` does for a user."""
        return warm(self.folder, self.environment)

    def lock(self) -> dict:
        return YAML(typ="safe").load(self.folder / "dvc.lock")["stages"]

    def hashes(self, *names: str) -> dict[str, str]:
        """sha256 of every file under some paths."""
        files = [path for name in names for path in sorted((self.folder / name).rglob("*")) if path.is_file()]
        files += [self.folder / name for name in names if (self.folder / name).is_file()]
        return {str(p.relative_to(self.folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
