import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipelines.graph import Graph
from pipelines.lock_file import LockFile, WorkspaceError, drop_dead_locks, only_coordinator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def files(workspace, tmp_path):
    workspace.declare(a=("echo a > a.out", []), b=("echo b > b.out", []), c=("echo c > c.out", ["a", "b"]))
    state = tmp_path / "state"
    state.mkdir()
    return workspace, LockFile(workspace.folder, state)


def finish(workspace, lock_file):
    with Graph() as graph:
        lock_file.finish(list(graph.nodes), graph.repo.lock)


def test_new_entries_come_in_serial_order(files):
    workspace, lock_file = files
    workspace.dvc("repro", "-q")
    serial = (workspace.folder / "dvc.lock").read_bytes()
    (workspace.folder / "dvc.lock").unlink()
    lock_file.begin()
    for name in ("b", "a", "c"):
        workspace.dvc("repro", "-q", "--single-item", name)
    assert list(workspace.lock()) == ["b", "a", "c"]
    finish(workspace, lock_file)
    assert (workspace.folder / "dvc.lock").read_bytes() == serial
    assert not lock_file.unfinished


def test_entries_that_were_there_keep_their_places(files):
    """As in a serial run, which replaces entries in place and appends new ones."""
    workspace, lock_file = files
    workspace.dvc("repro", "-q", "--single-item", "b")
    lock_file.begin()
    workspace.dvc("repro", "-q", "--single-item", "a")
    finish(workspace, lock_file)
    assert list(workspace.lock()) == ["b", "a"]


def test_a_killed_run_s_order_is_not_forgotten(files):
    workspace, lock_file = files
    lock_file.begin()
    workspace.dvc("repro", "-q", "--single-item", "b")
    assert lock_file.unfinished  # killed here
    lock_file.begin()
    workspace.dvc("repro", "-q", "--single-item", "a")
    finish(workspace, lock_file)
    assert list(workspace.lock()) == ["a", "b"]


@pytest.mark.parametrize("keep", [0, 60, -9])
def test_half_a_lock_is_replaced_by_the_last_whole_one(files, keep):
    workspace, lock_file = files
    workspace.dvc("repro", "-q")
    lock_file.begin()
    path = workspace.folder / "dvc.lock"
    whole = path.read_bytes()
    path.write_bytes(whole[:keep] + b"\n  - {")
    lock_file.keep()  # of no use: it is not whole
    assert "was cut off by a kill" in lock_file.repair()
    assert path.read_bytes() == whole
    assert lock_file.repair() is None


def test_half_a_lock_and_nothing_to_put_back(files):
    workspace, lock_file = files
    (workspace.folder / "dvc.lock").write_text("schema: '2.0'\nstages:\n  a:\n    cm")
    with pytest.raises(WorkspaceError, match=r"restore it, as by 'git checkout dvc\.lock'"):
        lock_file.repair()


def test_dead_entries_leave_the_table_of_busy_files(workspace, tmp_path):
    table = workspace.folder / ".dvc" / "tmp" / "rwlock"
    table.parent.mkdir(exist_ok=True)
    (tmp_path / "dvc").write_text("import time; print(flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, tmp_path / "dvc"], stdout=subprocess.PIPE) as process:
        process.stdout.read(1)
        # this process has the number of a dvc that was killed, say
        other, alive = {"pid": os.getpid(), "cmd": "dvc repro"}, {"pid": process.pid, "cmd": "dvc repro"}
        dead = {"pid": 2**22 + 1, "cmd": "dvc repro"}
        content = {"write": {"/a": other, "/b": dead, "/c": alive}, "read": {"/d": [other, dead, alive], "/e": [dead]}}
        table.write_text(json.dumps(content))
        drop_dead_locks(workspace.folder)
        process.kill()
    assert json.loads(table.read_text()) == {"write": {"/c": alive}, "read": {"/d": [alive]}}


def test_half_a_table_of_busy_files_is_dropped(workspace):
    workspace.declare(a=("echo a > a.out", []))
    table = workspace.folder / ".dvc" / "tmp" / "rwlock"
    table.parent.mkdir(exist_ok=True)
    table.write_text('{"write": {"/a": {"pi')
    workspace.dvc("repro", "-q", code=255)
    drop_dead_locks(workspace.folder)
    assert json.loads(table.read_text()) == {"write": {}, "read": {}}
    workspace.dvc("repro", "-q")
    assert list(workspace.lock()) == ["a"]


def test_a_second_coordinator_waits(tmp_path):
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from pipelines.lock_file import only_coordinator
        with only_coordinator(Path(sys.argv[1])):
            print("in", flush=True)
    """)
    with only_coordinator(tmp_path):
        command = [sys.executable, "-c", program, tmp_path]
        second = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert second.stdout.readline() == f"process {os.getpid()} runs stages in this workspace; waiting for it\n"
        assert second.poll() is None
    assert second.communicate(timeout=60)[0] == "in\n"
