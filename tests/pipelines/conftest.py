"""A small DVC repository of shell commands: real DVC, no training."""

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML


class Workspace:
    """A git and DVC repository with a dvc.yaml made from a few words."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run("git", "init", "-q")
        (folder / ".dvc").mkdir()
        (folder / ".dvc" / "config").write_text("[core]\nanalytics = false\ncheck_update = false\n")
        (folder / ".dvc" / ".gitignore").write_text("/cache\n/tmp\n")

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def dvc(self, *words: str, code: int = 0) -> str:
        return self.run(sys.executable, "-m", "dvc", *words, code=code)

    def declare(self, **stages: tuple[str, list[str]]) -> None:
        """Name -> (shell command, stages that it depends on); each writes <name>.out, and depends on <name>.in."""
        declared = {}
        for name, (command, upstream) in stages.items():
            (self.folder / f"{name}.in").touch()
            deps = [f"{name}.in", *(f"{other}.out" for other in upstream)]
            declared[name] = {"cmd": command, "deps": deps, "outs": [f"{name}.out"]}
        YAML().dump({"stages": declared}, self.folder / "dvc.yaml")

    def lock(self) -> dict:
        return YAML(typ="safe").load(self.folder / "dvc.lock")["stages"]


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    """The working directory of the test."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Workspace(folder)
