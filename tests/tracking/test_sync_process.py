"""The process that sends, forked from one that has imported mlflow; as one of its own the pipeline's tests run it."""

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
import mlflow, psutil
from mlml.tracking.run import Run
from mlml.tracking.sync import SyncProcess

folder, uri = Path(sys.argv[1]), sys.argv[2]
away, sync = SyncProcess("http://127.0.0.1:9", fork=True), SyncProcess(uri, fork=True)
run = Run.open(folder, "a run", "tests", {}, {})
away.begin(folder)
run.log("loss", 1.0, 1)
print(away.close(), flush=True)

sync.begin(folder)
run.log("loss", 2.0, 2)
for child in psutil.Process().children():
    limit = time.monotonic() + 60
    while not int(Path(f"/proc/{child.pid}/status").read_text().split("SigIgn:")[1].split()[0], 16) & 2:
        assert time.monotonic() < limit, "the sender does not ignore SIGINT"
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    print(child.pid, flush=True)
run.log("loss", 3.0, 3)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_forked_sender_tells_what_it_could_not_send_and_outlives_the_stage_by_a_last_pass(tmp_path):
    database = tmp_path / "mlflow.db"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run"), f"sqlite:///{database}"],
        cwd=Path.cwd(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    closed, sender = done.stdout.split()
    assert closed == "False"
    assert "is not reachable; the run is kept in" in done.stderr
    deadline = time.monotonic() + 60
    while Path("/proc", sender).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    with sqlite3.connect(database) as store:
        points = store.execute("select value, step from metrics order by step, value").fetchall()
        assert points == [(1, 1), (2, 2), (3, 3)]
        assert store.execute("select status from runs").fetchall() == [("KILLED",)]
