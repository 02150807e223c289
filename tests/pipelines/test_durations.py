"""From which of the runs that were recorded before an expectation is made."""

import json
import sqlite3

import pytest

from mlml.tracking.run import Run
from mlml.tracking.store import prepare_store, tracking_uri
from mlml.tracking.sync import sync
from pipelines.durations import durations

DECLARED = """
data: {digits: {source: digits}}
pretext:
  simclr: {method: simclr}
  hot: {method: simclr}
  rotation: {method: rotation}
threads: 1
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "params.yaml").write_text(DECLARED)
    return tmp_path


def record(root, stage, key, seconds, end=None, method=None, status="FINISHED", resumed=False):
    """A run as stages/_run.py leaves it."""
    group, name = stage.split("@")
    folder = root / ".mlml" / "runs" / stage / key
    params = {f"{group}.{name}": {"method": method or name}}
    if resumed:
        Run.open(folder, stage, "mlml", {"dvc.stage": stage}, params).finish("KILLED")
        path = folder / "run.json"  # some time passes
        path.write_text(json.dumps(json.loads(path.read_text()) | {"start": 1}))
    run = Run.open(folder, stage, "mlml", {"dvc.stage": stage}, params)
    run.log("system/images", 10.0)
    run.log("system/seconds", seconds)
    run.record.end = end or run.record.start
    run.finish(status)
    if end is not None:
        path = folder / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"end": end}))
    return folder


def test_the_median_of_the_newest_finished_runs(root):
    for end, seconds in enumerate([1000.0, 900.0, 1.0, 2.0, 30.0, 4.0, 5.0], start=1):
        record(root, "pretext@simclr", f"{end:016}", seconds, end=end)
    record(root, "pretext@simclr", "b" * 16, 500.0, end=100, status="FAILED")
    record(root, "pretext@simclr", "c" * 16, 600.0, end=101, resumed=True)
    assert durations(root, ["pretext@simclr", "check"]) == {"pretext@simclr": 4.0}


def test_a_run_that_was_taken_up_counts_if_there_is_no_other(root):
    record(root, "pretext@simclr", "c" * 16, 6.0, resumed=True)
    assert durations(root, ["pretext@simclr"]) == {"pretext@simclr": 6.0}


def test_an_entry_that_never_ran_is_judged_by_others_of_its_method(root):
    record(root, "pretext@simclr", "a" * 16, 8.0)
    record(root, "pretext@rotation", "a" * 16, 2.0)
    record(root, "supervised@hot", "a" * 16, 100.0, method="simclr")  # another group
    wanted = ["pretext@hot", "pretext@rotation", "prepare@digits"]
    assert durations(root, wanted) == {"pretext@hot": 8.0, "pretext@rotation": 2.0}


def test_nothing_is_known_and_nothing_is_made(root):
    assert durations(root, ["pretext@simclr"]) == {}
    assert [path.name for path in root.iterdir()] == ["params.yaml"]


def test_records_that_cannot_be_read_are_passed_over(root):
    (record(root, "pretext@simclr", "a" * 16, 1.0) / "run.json").write_text("{")
    (record(root, "pretext@simclr", "b" * 16, 1.0) / "points.jsonl").write_text("[]\n")
    record(root, "pretext@simclr", "c" * 16, 7.0)
    assert durations(root, ["pretext@simclr"]) == {"pretext@simclr": 7.0}


@pytest.fixture(scope="module")
def at_mlflow(tmp_path_factory):
    """A store with the runs of a workspace that has lost its own records."""
    root = tmp_path_factory.mktemp("away")
    uri = f"sqlite:///{root / '.mlml' / 'mlflow.db'}"
    prepare_store(uri)
    for stage, key, seconds in (
        ("pretext@simclr", "a", 3.0),
        ("pretext@simclr", "b", 5.0),
        ("pretext@simclr", "c", 900.0),
        ("pretext@rotation", "a", 1.0),
    ):
        folder = record(root, stage, key * 16, seconds, status="FAILED" if seconds > 100 else "FINISHED")
        assert sync(folder, uri).fault is None
    path = root / ".mlml" / "mlflow.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # this process keeps it open
    return path


def test_mlflow_is_asked_for_what_has_no_record(root, at_mlflow):
    record(root, "pretext@rotation", "a" * 16, 20.0)
    path = root / ".mlml" / "mlflow.db"
    path.write_bytes(at_mlflow.read_bytes())
    before = {other: (other.stat().st_mtime_ns, other.stat().st_ino) for other in [path, *path.parent.iterdir()]}
    wanted = ["pretext@simclr", "pretext@rotation", "pretext@hot"]
    assert durations(root, wanted) == {"pretext@simclr": 4.0, "pretext@rotation": 20.0, "pretext@hot": 4.0}
    after = {other: (other.stat().st_mtime_ns, other.stat().st_ino) for other in [path, *path.parent.iterdir()]}
    assert after == before


def test_a_store_of_another_kind_is_no_failure(root, monkeypatch):
    path = root / "other.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE runs (a)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    assert tracking_uri(root).endswith("other.db")
    assert durations(root, ["pretext@simclr"]) == {}


def test_a_server_that_is_away_is_done_without(root, monkeypatch):
    record(root, "pretext@rotation", "a" * 16, 20.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert durations(root, ["pretext@simclr", "pretext@rotation"]) == {"pretext@rotation": 20.0}
