import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import restore_dvc

pytestmark = pytest.mark.soak

ROOT = Path(__file__).resolve().parents[2]


def restore(workspace, entry, code=0):
    """What the coordinator runs once a worker has reported an entry of dvc.lock."""
    reported = workspace.folder / "reported.json"
    reported.write_text(json.dumps({"stage": "draw", "entry": entry}))
    words = [sys.executable, "-m", "pipelines.restore_dvc", "repro", "--single-item", "--pull", "draw"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), restore_dvc.VARIABLE: str(reported)}
    done = subprocess.run(words, cwd=workspace.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_result_that_was_reported_is_restored_and_nothing_runs_here(workspace):
    workspace.dvc("remote", "add", "--default", "shared", str(workspace.folder.parent / "remote"))
    workspace.declare(draw=("head -c 8 /dev/urandom > draw.out; echo ran >> runs", []))
    results = []
    for _ in range(2):  # of two workers: one of which was taken for dead
        workspace.dvc("repro", "--force")
        workspace.dvc("push", "--quiet", "--run-cache")
        results.append((workspace.lock()["draw"], (workspace.folder / "draw.out").read_bytes()))
    (workspace.folder / "dvc.lock").unlink()
    (workspace.folder / "draw.out").unlink()
    subprocess.run(["rm", "-rf", ".dvc/cache"], cwd=workspace.folder, check=True)
    for entry, content in [*results, results[0]]:  # also over another result of the same inputs
        said = restore(workspace, entry)
        assert "is cached - skipping run" in said
        assert workspace.lock() == {"draw": entry}
        assert (workspace.folder / "draw.out").read_bytes() == content
    (workspace.folder / "draw.in").write_text("changed here\n")
    before = (workspace.folder / "dvc.lock").read_bytes()
    said = restore(workspace, results[1][0], code=255)
    assert "the worker's result of draw does not fit" in said
    assert (workspace.folder / "dvc.lock").read_bytes() == before
    assert (workspace.folder / "runs").read_text() == "ran\nran\n"
