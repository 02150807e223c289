import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from stages import _life, _lineage


def test_a_run_is_worked_on_by_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(_life, "WAIT_SECONDS", 0.2)
    with (
        _life.only_one(tmp_path / "run"),
        pytest.raises(SystemExit, match=rf"process {os.getpid()} works on this run"),
        _life.only_one(tmp_path / "run"),
    ):
        pass
    with _life.only_one(tmp_path / "run"):
        pass  # free again


def test_an_isolated_experiment_waits_for_another(tmp_path, monkeypatch, capsys):
    """Side by side they share the stages that their values do not change."""
    monkeypatch.setattr(_life, "WAIT_SECONDS", 0.1)
    monkeypatch.setenv("DVC_EXP_NAME", "first")
    holder = _life.only_one(tmp_path / "run")
    holder.__enter__()
    free = threading.Timer(0.6, holder.__exit__, (None, None, None))
    free.start()
    with _life.only_one(tmp_path / "run"):
        pass
    assert f"process {os.getpid()} works on this run; waiting for it" in capsys.readouterr().out
    free.join()


PROGRAM = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from stages._life import end_with_dvc
end_with_dvc()
print(os.getpid(), flush=True)
time.sleep(120)
"""


@pytest.mark.parametrize("between", ["", "sh -c '{}; true'"])
def test_a_stage_ends_with_the_dvc_above_it(tmp_path, between):
    """`dvc` is known by its command line; a shell may stand between it and the stage."""
    program, root = tmp_path / "stage.py", Path.cwd()
    program.write_text(PROGRAM)
    command = f"{sys.executable} {program} {root}"
    command = between.format(command) if between else command
    dvc = tmp_path / "dvc"
    dvc.write_text(f"import subprocess\nsubprocess.run({command!r}, shell=True)\n")
    started = subprocess.Popen(
        [sys.executable, str(dvc)], stdout=subprocess.PIPE, text=True, env={**os.environ, "DVC_STAGE": "x"}
    )
    pid = int(started.stdout.readline())
    stage = psutil.Process(pid)
    started.kill()
    started.wait()
    deadline = time.monotonic() + 60
    while stage.is_running() and stage.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(pid) or stage.status() == psutil.STATUS_ZOMBIE


def test_the_key_changes_with_everything_that_the_result_depends_on():
    facts = {
        "stage": "pretext@a",
        "command": "python -m stages.pretext a",
        "dependencies": {"data": "1"},
        "parameters": {"a": {"b": 1}},
        "outputs": ("models/a",),
    }
    base = _lineage.Lineage(**facts).key
    assert base == _lineage.Lineage(**facts).key
    changes = {"stage": "pretext@b", "command": "x", "dependencies": {"data": "2"}, "parameters": {"a": {"b": 2}}}
    keys = {_lineage.Lineage(**{**facts, name: value}).key for name, value in changes.items()}
    assert len(keys | {base}) == 5
