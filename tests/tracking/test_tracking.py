import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlml.points import Points
from mlml.tracking import run as tracking
from mlml.tracking import sync as tracking_sync
from mlml.tracking.run import Record, Run, TrackingError
from mlml.tracking.sender import Sender, is_sent
from mlml.tracking.store import connect, find_runs, mlflow_ids, run_url, tracking_uri
from mlml.tracking.sync import Syncer, sync, sync_all

PATIENCE = 300.0  # seconds; far above what a busy machine needs


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def client(uri):
    return connect(uri)


@pytest.fixture
def down():
    """A tracking URI where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def die_after(monkeypatch, call):
    """The next call of this kind reaches MLflow, and the process is no more before it learns so."""
    from mlflow import MlflowClient

    original = getattr(MlflowClient, call)

    def last_act(*args, **kwargs):
        original(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(MlflowClient, call, last_act)


def write(folder, values, time_ms, name="train/loss"):
    with (folder / "points.jsonl").open("a") as file:
        for step, value in values:
            file.write(json.dumps({"name": name, "step": step, "value": value, "time": time_ms + step}) + "\n")


def history(client, folder, name="train/loss"):
    points = client.get_metric_history(mlflow_ids(folder)[1], name)
    return sorted((point.step, point.value, point.timestamp) for point in points)


def records(client, folder):
    """The MLflow runs that carry this folder's record."""
    from mlflow.entities import ViewType

    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    wanted = f"tags.`mlml.record` = '{Record.read(folder).id}'"
    return client.search_runs(experiments, wanted, run_view_type=ViewType.ALL)


def artifacts(client, run_id, path=""):
    found = {}
    for item in client.list_artifacts(run_id, path or None):
        found |= artifacts(client, run_id, item.path) if item.is_dir else {item.path: item.file_size}
    return found


def test_points_arrive_once_with_their_steps_values_and_times(client, uri, tmp_path):
    run = Run.open(tmp_path, "seed 0", "points")
    write(tmp_path, [(20, 0.5), (40, 0.25)], 1000)
    sender = Sender(tmp_path, uri)
    assert sender.send()[2:] == (2, 0, None)
    write(tmp_path, [(60, 0.125)], 1000)
    assert sender.send().points == 1  # the same sender goes on from where it was
    assert sync(tmp_path, uri).points == 0  # another one asks what is there
    write(tmp_path, [(80, 0.0625)], 1000)
    assert sender.send().points == 1
    assert history(client, tmp_path) == [(20, 0.5, 1020), (40, 0.25, 1040), (60, 0.125, 1060), (80, 0.0625, 1080)]
    run.finish()


def test_values_that_are_not_finite(client, uri, tmp_path):
    run = Run.open(tmp_path, "nan", "points")
    run.log("a", math.nan, 1)
    run.log("a", math.inf, 2)
    run.log("a", 3.0, 3)
    run.log("b", math.nan)
    assert sync(tmp_path, uri).fault is None
    assert sync(tmp_path, uri).points == 0
    (_, nan, _), (_, infinite, _), (_, last, _) = history(client, tmp_path, "a")
    assert math.isnan(nan)
    assert infinite > 1e300
    assert last == 3.0
    assert [math.isnan(value) for _, value, _ in history(client, tmp_path, "b")] == [True]


def test_half_a_line_waits_for_its_other_half(client, uri, tmp_path):
    run = Run.open(tmp_path, "half", "points")
    line = json.dumps({"name": "train/loss", "step": 2, "value": 0.2, "time": 2}) + "\n"
    write(tmp_path, [(1, 0.1)], 0)
    sender = Sender(tmp_path, uri)
    for part, sent in ((line[:15], 1), (line[15:], 1)):
        with (tmp_path / "points.jsonl").open("a") as file:
            file.write(part)
        assert sender.send()[2:] == (sent, 0, None)
    assert history(client, tmp_path) == [(1, 0.1, 1), (2, 0.2, 2)]

    with (tmp_path / "points.jsonl").open("a") as file:
        file.write(line[:15])
    run._lock.close()  # killed in the middle of a line, begun again
    run = Run.open(tmp_path, "half", "points")
    run.log("train/loss", 0.3, 3)
    assert sync(tmp_path, uri).fault is None
    assert [step for step, _, _ in history(client, tmp_path)] == [1, 2, 3]


def test_a_line_that_is_no_point_is_named(uri, tmp_path):
    run = Run.open(tmp_path, "bad", "points")
    (tmp_path / "points.jsonl").write_text('{"name": "loss", "step": 1}\n')
    assert f"{tmp_path / 'points.jsonl'}: not a metric point" in sync(tmp_path, uri).fault
    run.finish()


@pytest.mark.parametrize("same_sender", [True, False])
@pytest.mark.parametrize("regrown", [0, 2, 9])
def test_a_resumed_loop_writes_points_again(client, uri, tmp_path, same_sender, regrown):
    run = Run.open(tmp_path, "resumed", "points")
    values = [(step, 1 / step) for step in range(1, 12)]
    points = Points(tmp_path / "points.jsonl")
    write(tmp_path, values[:2], 1000)
    offset = (tmp_path / "points.jsonl").stat().st_size  # of the checkpoint
    write(tmp_path, values[2:7], 1000)
    sender = Sender(tmp_path, uri)
    assert sender.send().points == 7
    points.cut(offset)
    points.close()
    write(tmp_path, values[2 : 2 + regrown], 500000)  # shorter than it was, or longer
    sender = sender if same_sender else Sender(tmp_path, uri)
    assert sender.send().fault is None
    write(tmp_path, values[2 + regrown :], 500000)
    sender.send()
    run.finish()
    assert sender.send().fault is None
    assert is_sent(tmp_path)
    expected = [(step, value, (1000 if step <= 7 else 500000) + step) for step, value in values]
    assert history(client, tmp_path) == expected


def test_two_senders_in_turn(client, uri, tmp_path):
    run = Run.open(tmp_path, "turns", "points")
    first = Sender(tmp_path, uri)
    write(tmp_path, [(1, 0.5)], 1000)
    assert first.send().points == 1
    write(tmp_path, [(2, 0.25)], 1000)
    assert sync(tmp_path, uri).points == 1
    (tmp_path / "points.jsonl").unlink()  # and the loop begins anew
    write(tmp_path, [(1, 0.5), (2, 0.25), (3, 0.125)], 500000)
    assert first.send().points == 1
    assert history(client, tmp_path) == [(1, 0.5, 1001), (2, 0.25, 1002), (3, 0.125, 500003)]
    run.finish()


@pytest.mark.parametrize(
    "call",
    ["create_experiment", "create_run", "log_batch", "log_inputs", "log_artifacts", "set_terminated"],
)
def test_a_kill_after_any_call_leaves_nothing_twice(client, uri, tmp_path, monkeypatch, call):
    folder = tmp_path / "run"
    run = Run.open(folder, "killed", f"kill {call}", tags={"stage": "pretext"}, params={"a": {"b": 1}})
    (tmp_path / "weights").write_bytes(b"1234")
    write(folder, [(step, 1 / step) for step in range(1, 1501)], 1000)  # more than one request takes
    run.log_artifact(tmp_path / "weights", "model")
    run.log_dataset("digits", "f" * 64, "scikit-learn")
    run.finish()
    with monkeypatch.context() as patch:
        die_after(patch, call)
        with pytest.raises(Killed):
            sync(folder, uri)
    assert sync(folder, uri).fault is None
    assert sync(folder, uri)[2:] == (0, 0, None)

    (sent,) = records(client, folder)
    assert (sent.info.status, sent.info.end_time) == ("FINISHED", run.record.end)
    assert sent.data.params == {"a.b": "1"}
    assert sent.data.tags["stage"] == "pretext"
    assert [(i.dataset.name, i.dataset.digest) for i in sent.inputs.dataset_inputs] == [("digits", "f" * 36)]
    assert history(client, folder) == [(step, 1 / step, 1000 + step) for step in range(1, 1501)]
    assert artifacts(client, sent.info.run_id) == {"model/weights": 4}
    assert not list((folder / "artifacts").rglob("weights"))


@pytest.mark.parametrize("arrived", [True, False])
def test_a_request_that_fails_is_made_again(client, uri, tmp_path, monkeypatch, arrived):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    run = Run.open(tmp_path, "fails", "fails")
    sender = Sender(tmp_path, uri)
    assert sender.send().fault is None
    write(tmp_path, [(1, 0.5), (2, 0.25)], 1000)
    original = MlflowClient.log_batch

    def fail(*args, **kwargs):
        if arrived:
            original(*args, **kwargs)
        raise MlflowException("API request to http://example.org failed with timeout exception")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", fail)
        assert sender.send().fault == "not reachable"
    assert sender.send().points == (0 if arrived else 2)
    assert history(client, tmp_path) == [(1, 0.5, 1001), (2, 0.25, 1002)]
    run.finish()


def test_a_run_deleted_at_mlflow_stays_deleted(client, uri, tmp_path):
    run = Run.open(tmp_path, "deleted", "deleted run")
    assert sync(tmp_path, uri).fault is None
    client.delete_run(mlflow_ids(tmp_path)[1])
    run.log("loss", 1.0)
    run.finish()
    (tmp_path / "sent.json").unlink()
    assert sync(tmp_path, uri)[2:] == (0, 0, None)
    assert [run.info.lifecycle_stage for run in records(client, tmp_path)] == ["deleted"]


KILLED_PROCESS = """
import os, signal, sys
from pathlib import Path
import mlflow
from mlml.tracking.run import Run
from mlml.tracking.sync import Syncer

folder, uri = Path(sys.argv[1]), sys.argv[2]
original = mlflow.MlflowClient.log_batch
def log_batch(self, run_id, metrics=(), **rest):
    original(self, run_id, metrics=metrics, **rest)
    if metrics:
        os.kill(os.getpid(), signal.SIGKILL)
mlflow.MlflowClient.log_batch = log_batch
run = Run.open(folder, "killed", "sigkill", params={"a": 1})
for step in range(5):
    run.log("loss", step / 2, step)
Syncer(folder, uri).close(300)
"""


def test_a_killed_process_and_the_one_after_it_are_one_run(client, uri, tmp_path):
    ended = subprocess.run([sys.executable, "-c", KILLED_PROCESS, str(tmp_path), uri], timeout=PATIENCE, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert sync(tmp_path, uri).fault is None
    assert [run.info.status for run in records(client, tmp_path)] == ["KILLED"]

    (tmp_path / "points.jsonl").unlink()  # no checkpoint: the loop begins anew
    with Run.open(tmp_path, "killed", "sigkill", params={"a": 1}) as run:
        assert sync(tmp_path, uri).fault is None
        assert [run.info.status for run in records(client, tmp_path)] == ["RUNNING"]
        for step in range(8):
            run.log("loss", step / 2, step)
    assert sync(tmp_path, uri).points == 3
    assert [run.info.status for run in records(client, tmp_path)] == ["FINISHED"]
    assert [point[:2] for point in history(client, tmp_path, "loss")] == [(step, step / 2) for step in range(8)]


def test_killed_twice_with_more_points_each_time(client, uri, tmp_path):
    for step in (1, 2):
        run = Run.open(tmp_path, "twice", "points")
        run.log("loss", 0.5, step)
        run._lock.close()
        assert sync(tmp_path, uri).points == 1
    assert [step for step, _, _ in history(client, tmp_path, "loss")] == [1, 2]
    assert [run.info.status for run in records(client, tmp_path)] == ["KILLED"]


def test_a_server_that_is_away_costs_no_time_and_no_point(client, uri, down, tmp_path, caplog, monkeypatch):
    stage = tmp_path / ".mlml" / "runs" / "pretext" / "key"
    weights = tmp_path / "weights"
    weights.write_bytes(b"good")
    with caplog.at_level(logging.WARNING):
        run = Run.open(stage, "stage", "away")
        syncer = Syncer(stage, down, every_seconds=0.01)
        seed = Run.open(stage / "seed_0", "seed 0", "away", parent=stage)
        for step in range(3):
            seed.log("loss", 1.0, step)
        deadline = time.monotonic() + PATIENCE
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
        run.log_artifact(weights)
        seed.finish()
        run.finish()
        assert not syncer.close(PATIENCE)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == f"MLflow at {down} is not reachable; the run is kept in {stage} and 'mlml sync' sends it later"
    weights.write_bytes(b"changed")
    tried = []
    with monkeypatch.context() as patch:
        patch.setattr(tracking_sync, "Sender", lambda *args: tried.append(args) or Sender(*args))
        assert [result.fault for result in sync_all(tmp_path, down)] == ["not reachable"] * 2
        assert not Syncer(stage, down).close(PATIENCE)
    assert tried == [(stage, down)] * 2  # a server that is away is asked once, not once for each run
    assert sync_all(tmp_path / "empty", down) == []

    assert [(result.points, result.artifacts, result.fault) for result in sync_all(tmp_path, uri)] == [
        (0, 1, None),
        (3, 0, None),
    ]
    assert sync_all(tmp_path, uri) == []
    (parent,), (child,) = records(client, stage), records(client, stage / "seed_0")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.status == child.info.status == "FINISHED"
    assert len(history(client, stage / "seed_0", "loss")) == 3
    assert Path(client.download_artifacts(parent.info.run_id, "weights", str(tmp_path))).read_bytes() == b"good"


def test_a_server_that_does_not_answer_is_not_waited_for(tmp_path, caplog):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        run = Run.open(tmp_path, "silent", "away")
        syncer = Syncer(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        run.finish()
        assert not syncer.close(timeout_seconds=0.2)
    assert "did not answer" in caplog.text


def test_syncer_sends_while_training_runs(client, uri, tmp_path):
    run = Run.open(tmp_path, "stage", "syncer")
    syncer = Syncer(tmp_path, uri, every_seconds=0.01)
    seed = Run.open(tmp_path / "seed_1", "seed 1", "syncer", parent=tmp_path)  # found by a later pass
    seed.log("loss", 1.0, 1)
    deadline = time.monotonic() + PATIENCE
    while mlflow_ids(seed.folder) is None or not history(client, seed.folder, "loss"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    seed.log("loss", 0.5, 2)
    seed.finish("FAILED")
    run.finish()
    assert syncer.close(PATIENCE)
    assert sync_all(tmp_path, uri) == []
    assert [record.info.status for record in records(client, seed.folder)] == ["FAILED"]
    assert [step for step, _, _ in history(client, seed.folder, "loss")] == [1, 2]


def test_what_is_written_during_the_last_pass_but_one_is_sent(uri, tmp_path, monkeypatch):
    run = Run.open(tmp_path, "stage", "syncer")
    original = Sender.send

    def meanwhile(sender):
        result = original(sender)
        if run.record.status == "RUNNING":  # the stage ends while a pass is on its way
            run.log("loss", 1.0)
            run.finish()
            syncer._closing.set()
        return result

    monkeypatch.setattr(Sender, "send", meanwhile)
    syncer = Syncer(tmp_path, uri)
    syncer._thread.join(PATIENCE)
    assert syncer.close(PATIENCE)
    assert is_sent(tmp_path)


def test_a_fault_never_reaches_training(tmp_path, caplog, uri):
    run = Run.open(tmp_path, "stage", "syncer")
    syncer = Syncer(tmp_path, uri, every_seconds=0.01)
    (tmp_path / "points.jsonl").write_text("nonsense\n")
    run.finish()
    assert not syncer.close(PATIENCE)
    assert len(caplog.records) == 1
    assert "not a metric point" in caplog.text


def test_a_finished_run_that_was_not_sent_is_kept_when_the_next_begins(client, uri, tmp_path):
    stage = tmp_path / ".mlml" / "runs" / "stage" / "key"
    ids = []
    for attempt in range(3):
        run = Run.open(stage, f"attempt {attempt}", "attempts")
        seed = Run.open(stage / "seed_0", "seed", "attempts", parent=stage)
        seed.log("loss", float(attempt), 1)
        run.log_artifact(stage / "run.json")
        seed.finish()
        run.finish()
        ids.append((run.record.id, seed.record.id))
    assert all(result.fault is None for result in sync_all(tmp_path, uri))
    assert sync_all(tmp_path, uri) == []
    for attempt, (run_record, seed_record) in enumerate(ids):
        (run,) = find_runs(uri, {"mlml.record": run_record})
        (seed,) = find_runs(uri, {"mlml.record": seed_record})
        assert run.info.run_name == f"attempt {attempt}"
        assert seed.data.tags["mlflow.parentRunId"] == run.info.run_id
        assert seed.data.metrics == {"loss": attempt}
        assert list(artifacts(client, run.info.run_id)) == ["run.json"]

    Run.open(stage, "attempt 3", "attempts").finish()  # the last one was sent: nothing of it stays
    assert mlflow_ids(stage) is None
    assert len(list(stage.glob("attempt_*"))) == 2


def test_a_run_of_another_store_is_sent_whole(uri, client, tmp_path):
    other = tmp_path / "other"
    run = Run.open(tmp_path / "run", "moved", "moved", params={"a": 1})
    run.log("loss", 1.0, 1)
    assert sync(tmp_path / "run", f"sqlite:///{other / 'mlflow.db'}").points == 1
    run.log("loss", 1.0, 2)
    run.finish()
    assert sync(tmp_path / "run", uri).points == 2
    (sent,) = records(client, tmp_path / "run")
    assert sent.data.params == {"a": "1"}
    assert len(history(client, tmp_path / "run", "loss")) == 2


def test_params_stay_and_tags_change_when_a_run_is_taken_up(client, uri, tmp_path):
    run = Run.open(tmp_path, "tags", "tags", tags={"commit": "1", "seed": 0}, params={"a": 1, "list": [1, 2]})
    run._lock.close()
    sender = Sender(tmp_path, uri)
    assert sender.send().fault is None
    more = {f"p{number}": "x" * 7000 for number in range(250)}
    run = Run.open(tmp_path, "tags", "tags", tags={"commit": "2"}, params={"a": 2, **more})
    assert run.record.params["a"] == "1"
    run.add_tags({"out.md5": "9" * 9000})
    run.finish()
    assert sender.send().fault is None
    (sent,) = records(client, tmp_path)
    assert sent.data.params == {"a": "1", "list": "[1, 2]"} | {name: value[:6000] for name, value in more.items()}
    assert {key: sent.data.tags[key] for key in ("commit", "seed", "out.md5")} == {
        "commit": "2",
        "seed": "0",
        "out.md5": "9" * 8000,
    }


def test_an_artifact_that_changes_while_it_is_sent(client, uri, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    run = Run.open(tmp_path / "run", "artifacts", "artifacts")
    grid = tmp_path / "grids" / "deep" / "samples.png"
    grid.parent.mkdir(parents=True)
    grid.write_bytes(b"1")
    run.log_artifact(tmp_path / "grids", "plots")
    original = MlflowClient.log_artifacts

    def meanwhile(*args):
        original(*args)
        grid.write_bytes(b"22")
        run.log_artifact(tmp_path / "grids", "plots")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifacts", meanwhile)
        assert sync(run.folder, uri).artifacts == 1
    assert sync(run.folder, uri).artifacts == 1
    assert artifacts(client, mlflow_ids(run.folder)[1]) == {"plots/grids/deep/samples.png": 2}
    for path in ("../up", "/absolute"):
        with pytest.raises(ValueError, match="artifact_path"):
            run.log_artifact(grid, path)


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_how_a_run_ends(tmp_path, error, status):
    with pytest.raises(error), Run.open(tmp_path, "ends", "ends"):
        raise error
    assert Record.read(tmp_path).status == status


def test_a_run_is_open_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "LOCK_SECONDS", 0.01)
    run = Run.open(tmp_path / "run", "once", "once")
    with pytest.raises(TrackingError, match="another process has this run open"):
        Run.open(tmp_path / "run", "once", "once")
    run.finish()
    with pytest.raises(TrackingError, match="holds no run"):
        Run.open(tmp_path / "child", "child", "once", parent=tmp_path / "nothing")


def test_a_run_that_another_process_sends_is_left_to_it(uri, tmp_path):
    folder = tmp_path / ".mlml" / "runs" / "busy"
    Run.open(folder, "busy", "busy").finish()
    with tracking.lock_file(folder / "send.lock", 0):
        assert [result.fault for result in sync_all(tmp_path, uri)] == ["another process is sending this run"]
    assert [result.fault for result in sync_all(tmp_path, uri)] == [None]


def test_a_deleted_experiment_is_named_with_the_way_out(client, uri, tmp_path):
    experiment = client.create_experiment("deleted")
    client.delete_experiment(experiment)
    Run.open(tmp_path, "deleted", "deleted").finish()
    assert f"mlflow experiments restore -x {experiment}" in sync(tmp_path, uri).fault


def test_addresses(tmp_path, monkeypatch, uri):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/.mlml/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example.org")
    assert tracking_uri(tmp_path) == "http://example.org"
    assert run_url("http://127.0.0.1:5000/", "3", "abc") == "http://127.0.0.1:5000/#/experiments/3/runs/abc"
    assert find_runs(uri, {"nobody": "it's"}) == []


ONE_OF_MANY = """
import sys
from pathlib import Path
from mlml.tracking.run import Run
from mlml.tracking.store import tracking_uri
from mlml.tracking.sync import sync

root, number = Path(sys.argv[1]), sys.argv[2]
with Run.open(root / ".mlml" / "runs" / number, number, "together") as run:
    run.log("loss", 1.0)
result = sync(run.folder, tracking_uri(root))
assert result.fault is None and result.points == 1, result
"""


def test_many_processes_on_a_new_store(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", ONE_OF_MANY, str(tmp_path)]
    began = [
        subprocess.Popen([*command, str(number)], env=environment, stderr=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    noise = [process.communicate(timeout=PATIENCE)[1] for process in began]
    assert [process.returncode for process in began] == [0] * 4, noise
    assert noise == [""] * 4
    assert len(find_runs(tracking_uri(tmp_path), {"mlflow.runName": "2"})) == 1
    assert sync_all(tmp_path, tracking_uri(tmp_path)) == []
    assert sorted(
        path.name for path in (tmp_path / ".mlml").iterdir() if path.suffix not in (".db-wal", ".db-shm")
    ) == [
        "mlflow.db",
        "mlflow.db.lock",
        "runs",
    ]


def test_recording_needs_neither_mlflow_nor_torch(tmp_path):
    code = """
import sys
from pathlib import Path
from mlml.tracking import run, store, sync
from mlml.tracking.run import Run
with Run.open(Path(sys.argv[1]), "a", "b", params={"c": 1}) as run:
    run.log("loss", 1.0)
assert not {"mlflow", "torch", "numpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
