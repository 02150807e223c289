"""Every fault is found, with its way out; what is well is said to be; and a look changes nothing."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mlml.tracking import sqlite_store
from mlml.tracking.run import Run, lock_file
from mlml.tracking.store import prepare_store
from pipelines import doctor, health
from pipelines.commands import doctor as command
from pipelines.finding import Finding

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0


@pytest.fixture
def root(workspace, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "DO_NOT_TRACK", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    (workspace.folder / ".mlml").mkdir()
    (workspace.folder / ".dvc" / "tmp").mkdir()
    return workspace.folder


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    prepare_store(f"sqlite:///{path}")
    return path


@contextlib.contextmanager
def running(*words, **options):
    """A process that ends with the block, also when the block fails."""
    with subprocess.Popen(words, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def faults(found) -> list[tuple[str, str]]:
    """(text, remedy) of the faults."""
    return [(finding.text, finding.remedy) for finding in found if finding.level == "fault"]


def notes(found) -> list[str]:
    return [finding.text for finding in found if finding.level == "note"]


def worse(found) -> list[Finding]:
    return [finding for finding in found if finding.level != "ok"]


def test_a_healthy_project_and_one_with_a_fault(root, capsys):
    shutil.copy(ROOT / "params.yaml", root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([]))
    printed = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    areas = list(dict.fromkeys(line.split()[1] for line in printed.splitlines()))
    assert " ".join(areas) == "versions device declaration servers stores disk locks orphans settings"
    assert not [line for line in printed.splitlines() if line.startswith("fault")]
    assert "DVC has no remote" in printed
    (root / "params.yaml").write_text("pretext: {a: {}}")
    with pytest.raises(SystemExit) as ended:
        command.run(parser.parse_args(["--json"]))
    assert ended.value.code == 1
    told = json.loads(capsys.readouterr().out)
    assert told["faults"] == 1
    [fault] = [finding for finding in told["findings"] if finding["level"] == "fault"]
    assert (fault["area"], fault["remedy"]) == ("declaration", "mlml check")


def test_a_look_that_fails_hides_no_other(root, monkeypatch):
    def broken(_):
        raise PermissionError("not yours")

    monkeypatch.setattr(doctor, "disk", broken)
    found = list(doctor.checkup(root))
    assert ("cannot be looked at (PermissionError: not yours)", "mlml check") in faults(found)
    assert found[-1].area == "settings"


def test_a_fault_without_a_way_out_is_no_finding():
    with pytest.raises(ValueError, match="must say the way out"):
        Finding("disk", "fault", "full")


def test_packages_outside_of_their_ranges(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy<1", "nothing>=2", "ruff>=99; extra == 'dev'"])
    texts = [text for text, _ in faults(doctor.versions(ROOT))]
    assert texts == [f"numpy {doctor._version('numpy')}; needed: <1", "nothing is missing; needed: >=2"]


def test_a_driver_whose_gpus_torch_does_not_use(monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'Some GPU'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    [(text, remedy)] = faults(doctor.device(tmp_path))
    assert text.startswith("the driver lists Some GPU, but torch uses none")
    assert remedy.startswith("nvidia-smi")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert notes(doctor.device(tmp_path)) == ["1 GPUs are hidden by CUDA_VISIBLE_DEVICES="]


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'"0.0.1"')
    def log_message(self, *words): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_servers(root, monkeypatch):
    assert worse(doctor.servers(root)) == []
    with running(sys.executable, "-c", SERVER, stdout=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline())
        record = {"pid": process.pid, "port": port, "started": psutil.Process(process.pid).create_time()}
        for name in ("mlflow", "dashboard", "deployments"):
            (root / ".mlml" / name).mkdir()
            (root / ".mlml" / name / "server.json").write_text(json.dumps(record))
        found = list(doctor.servers(root))
        [(text, remedy)] = faults(found)
        assert text.startswith(f"MLflow server: runs version 0.0.1 at http://127.0.0.1:{port}, installed is ")
        assert remedy == "mlml down; mlml up"
        assert f"deployments: pid {process.pid}, http://127.0.0.1:{port}" in [finding.text for finding in found]
        process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(doctor, "SECONDS", 0.2)
        assert [text.split(";")[0] for text, _ in faults(doctor.servers(root))] == [
            f"{title}: pid {process.pid} lives and does not answer at http://127.0.0.1:{port}"
            for title in ("MLflow server", "Optuna dashboard", "deployments")
        ]
    assert [text.split(";")[0] for text in notes(doctor.servers(root))] == [
        f"{title}: has ended without a word (pid {process.pid})"
        for title in ("MLflow server", "Optuna dashboard", "deployments")
    ]
    (root / ".mlml" / "mlflow" / "server.json").write_text("{")
    assert faults(doctor.servers(root))[0][1].startswith("rm ")
    monkeypatch.setenv("PREFECT_API_URL", "http://me:secret@127.0.0.1:9/api")
    assert faults(doctor.servers(root))[1][0].startswith(
        "PREFECT_API_URL http://me:***@127.0.0.1:9/api does not answer"
    )


def test_the_store_of_mlflow(root, whole_store, monkeypatch):
    path = root / ".mlml" / "mlflow.db"
    shutil.copy(whole_store, path)

    def found():
        return [finding for finding in health.stores(root) if finding.text.startswith("MLflow")]

    assert [finding.level for finding in found()] == ["ok"]
    assert [other.name for other in (root / ".mlml").iterdir()] == ["mlflow.db"]
    for revision, level, word in (("tomorrow", "fault", "newer"), (min(sqlite_store.revisions()), "note", "older")):
        database = sqlite3.connect(path)
        database.execute(f"UPDATE alembic_version SET version_num = '{revision}'")
        database.commit()
        if level == "note":
            database.execute("PRAGMA journal_mode=DELETE")
        database.close()
        assert found()[0].level == level
        assert f"{word} MLflow (tables {revision})" in found()[0].text
    assert "no write-ahead log" in found()[1].text
    content = bytearray(whole_store.read_bytes())
    content[4096 * 3 : 4096 * 40] = bytes(4096 * 37)
    path.write_bytes(content)
    [(text, remedy)] = faults(found())
    assert "is damaged" in text
    assert remedy.startswith(f"mv {path} {path}.damaged")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert faults(found()) == [
        (
            "MLflow: http://127.0.0.1:9 cannot be reached (no answer); runs are kept here until it can",
            "mlml sync  # once it answers",
        )
    ]


def test_records_of_runs(root):
    runs = root / ".mlml" / "runs" / "pretext@a"
    at_work = Run.open(runs / ("a" * 16), "a", "mlml")
    Run.open(runs / ("b" * 16), "b", "mlml").finish()
    found = list(health.stores(root))
    assert "1 of 2 recorded runs are not sent to MLflow yet" in notes(found)
    at_work.finish()
    assert "2 of 2 recorded runs are not sent to MLflow yet" in notes(health.stores(root))
    (runs / ("b" * 16) / "run.json").write_text("{")
    [(text, remedy)] = faults(health.stores(root))
    assert "cannot be read" in text
    assert remedy.startswith(f"rm -r .mlml/runs/pretext@a/{'b' * 16}")


def test_dvc_s_lock_file_and_remote(root, workspace):
    (root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  a:\n    cm")
    [(text, remedy)] = faults(health.stores(root))
    assert text.startswith("dvc.lock cannot be read")
    assert remedy == "git checkout dvc.lock"
    (root / ".mlml" / "reproduce").mkdir()
    (root / ".mlml" / "reproduce" / "dvc.lock").touch()
    assert faults(health.stores(root))[0][1].startswith("mlml repro")
    (root / "dvc.lock").unlink()
    workspace.dvc("remote", "add", "-d", "-q", "away", str(root / "no" / "such" / "place"))
    [(text, remedy)] = faults(health.stores(root))
    assert text.startswith("DVC's remote 'away' cannot be reached (OSError: there is no ")
    (root / "no" / "such" / "place").mkdir(parents=True)
    assert faults(health.stores(root)) == []


def test_what_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(health, "SECONDS", 0.1)
    assert health._fault_of(lambda: time.sleep(PATIENCE)) == "no answer in 0 s"
    assert health._fault_of(lambda: None) == ""


def test_locks(root, tmp_path):
    assert worse(health.locks(root)) == []
    table = root / ".dvc" / "tmp" / "rwlock"
    with running("sleep", "60") as gone:
        pass
    mine = {"pid": os.getpid(), "cmd": "dvc repro"}  # the number of a dvc that was killed has passed to this process
    table.write_text(json.dumps({"write": {"/a": mine}, "read": {"/b": [{"pid": gone.pid, "cmd": "dvc repro"}]}}))
    found = list(health.locks(root))
    [(text, remedy)] = faults(found)
    assert text.startswith(f"DVC takes files for busy by process {os.getpid()}, which is no dvc")
    assert remedy.startswith(f"rm {table}")
    assert [text.split(")")[0] for text in notes(found)] == [f"a dvc that was killed (process {gone.pid}"]
    table.write_text("{")
    assert faults(health.locks(root))[0][1] == f"rm {table}"
    table.unlink()
    (root / ".mlml" / "reproduce").mkdir()
    with lock_file(root / ".mlml" / "reproduce" / "lock", 0):
        [held] = notes(health.locks(root))
        assert held.startswith(f".mlml/reproduce/lock: held by process {os.getpid()}")
    assert worse(health.locks(root)) == []


def test_a_lock_of_a_stopped_process(root):
    program = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    path = root / ".dvc" / "tmp" / "lock"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(sys.executable, "-c", program, str(path), **pipes) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert faults(health.locks(root))[0][1] == f"kill -CONT {process.pid}"


def test_a_stage_without_its_dvc(root):
    (root / "stages").mkdir()
    (root / "stages" / "__init__.py").touch()
    (root / "stages" / "__main__.py").write_text(
        "import os, time\nfrom pathlib import Path\nPath('pid').write_text(str(os.getpid()))\ntime.sleep(60)"
    )
    shell = f"{sys.executable} -m stages pretext simclr & echo started; wait"
    with running("sh", "-c", shell, env={**os.environ, "DVC_STAGE": "pretext@simclr"}) as above:
        deadline = time.monotonic() + PATIENCE
        while not (root / "pid").exists() or not (root / "pid").read_text():
            assert above.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stage = psutil.Process(int((root / "pid").read_text()))
        assert worse(health.orphans(root)) == []  # this test stands for its dvc
    try:
        [(text, remedy)] = faults(health.orphans(root))
        assert text == f"process {stage.pid} ({' '.join(stage.cmdline())}) works without its dvc"
        assert remedy == f"kill {stage.pid}"
    finally:
        stage.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        while stage.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    (root / ".dvc/tmp/exps/standalone/tmpx").mkdir(parents=True)
    [left] = worse(health.orphans(root))
    assert left.text.startswith("1 temporary workspaces are left")
    assert left.remedy == "mlml gc"


def test_settings(root, monkeypatch):
    assert worse(doctor.settings(root)) == []
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    (root / ".dvc" / "config").write_text("[core]\nanalytics = true\ncheck_update = false\n")
    found = list(doctor.settings(root))
    assert faults(found) == [("DVC's core.analytics is on", "dvc config core.analytics false")]
    assert notes(found) == ["DO_NOT_TRACK=1 in the environment; the project's own is true"]


def test_disk(root, monkeypatch):
    (root / ".mlml" / "runs").mkdir()
    (root / ".mlml" / "runs" / "step_1.ckpt").write_bytes(bytes(2_000_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: argparse.Namespace(free=10**8, total=10**12))
    found = list(doctor.disk(root))
    assert faults(found) == [("0.1 GB of 1000.0 GB free", "mlml gc  # then: dvc gc --all-commits --workspace")]
    assert "1 checkpoints in it: 2.0 MB" in found[-1].text
