"""`mlml gc` on real stages: what is referred to stays, so that a killed run still goes on from its checkpoint."""

import contextlib
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.soak

LIMIT_SECONDS = 120
STAGE = "pretext@rotation"
RUNS = f".mlml/runs/{STAGE}"
SHORT = "train: &train {steps: 12, batch_size: 64, log_every: 2, evaluate_every: 4, checkpoint_every: 5}"
LONG = "train: &train {steps: 400, batch_size: 64, log_every: 7, evaluate_every: 50, checkpoint_every: 20}"
OUTPUTS = (
    "models/rotation",
    "reports/metrics/rotation.json",
    "reports/curves/rotation.csv",
    "reports/diagnostics/rotation.json",
)
OF_NO_STAGE = "b" * 16


def at_mlflow(project) -> list[str]:
    """Key of every run that MLflow has, those of seeds included."""
    with contextlib.closing(sqlite3.connect(project.folder / ".mlml" / "mlflow.db")) as database:
        return sorted(key for (key,) in database.execute("SELECT value FROM tags WHERE key = 'dvc.key'"))


def forget(project, stage) -> None:
    """Make the run of a stage one that was made from something else, which nothing names any more."""
    [folder] = (project.folder / ".mlml/runs" / stage).iterdir()
    key = folder.name
    folder.rename(folder.with_name(OF_NO_STAGE))
    with contextlib.closing(sqlite3.connect(project.folder / ".mlml" / "mlflow.db")) as database:
        database.execute(f"UPDATE tags SET value = '{OF_NO_STAGE}' WHERE key = 'dvc.key' AND value = '{key}'")
        database.commit()


def newest_step(project) -> int:
    names = [name for _, _, files in os.walk(project.folder / RUNS) for name in files if name.endswith(".ckpt")]
    return max((int(Path(name).stem.removeprefix("step_")) for name in names), default=-1)


def kill_in_the_middle(project) -> None:
    """Run the stage, and kill it once it has a checkpoint of step 40 or later."""
    dvc = project.start("dvc", "repro", "--single-item", "--force", "--no-run-cache", STAGE)
    deadline = time.monotonic() + LIMIT_SECONDS
    while newest_step(project) < 40:
        assert dvc.poll() is None, (project.folder / "started.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    [lock] = (project.folder / RUNS).glob("*/lock")
    os.kill(int(lock.read_text()), signal.SIGKILL)
    assert dvc.wait(LIMIT_SECONDS) != 0


def test_a_resumed_run_after_gc_ends_as_if_nothing_had_happened(project):
    project.edit("params.yaml", SHORT, LONG)
    project.repro(STAGE)
    whole = project.hashes(*OUTPUTS)
    forget(project, "prepare@digits")
    kill_in_the_middle(project)
    temporary = project.folder / ".dvc/tmp/exps/standalone/tmpabc"
    (temporary / "models").mkdir(parents=True)
    (temporary / "models/1").write_bytes(bytes(10_000))
    [run] = (project.folder / RUNS).iterdir()
    before, checkpoints = at_mlflow(project), sorted(run.rglob("*.ckpt"))
    assert set(before) == {run.name, OF_NO_STAGE}

    listed = project.run("mlml", "gc", "--yes")
    assert "1 run folder, " in listed
    assert f".mlml/runs/prepare@digits/{OF_NO_STAGE}, finished" in listed
    assert "1 temporary workspace, " in listed
    assert "1 MLflow run, " in listed
    assert run.name not in listed
    assert "3 removed" in listed
    assert not temporary.exists()
    assert [path.name for path in (project.folder / ".mlml/runs").iterdir()] == [STAGE]
    assert at_mlflow(project) == [key for key in before if key == run.name]
    assert sorted(run.rglob("*.ckpt")) == checkpoints

    resumed = project.run("dvc", "repro", "--single-item", "--force", "--no-run-cache", STAGE)
    assert "resumed at step" in resumed
    assert project.hashes(*OUTPUTS) == whole
