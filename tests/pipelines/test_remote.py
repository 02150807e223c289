import json
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from pipelines import flow_run_watch, stage_flow
from pipelines.flow_run_watch import Silence, WatchedRun, insist
from pipelines.lock_file import WorkspaceError
from pipelines.remote import Pool, silence
from pipelines.remote_stage import Inputs, _entries
from pipelines.stage_flow import BEAT, STATUS, judge_own
from pipelines.worker import WorkerError, needs, serve


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when somebody sleeps."""
    now = SimpleNamespace(time=1000.0)
    monkeypatch.setattr(flow_run_watch.time, "monotonic", lambda: now.time)
    monkeypatch.setattr(flow_run_watch.time, "sleep", lambda seconds: setattr(now, "time", now.time + seconds))
    return now


def test_silence_counts_from_the_last_sign_and_not_while_the_server_is_away(clock):
    silent = Silence(20)
    assert not silent.too_long(False, ("SCHEDULED", None))
    clock.time += 1000  # in the queue
    assert not silent.too_long(False, ("SCHEDULED", None))
    clock.time += 50  # its process starts
    assert not silent.too_long(True, ("PENDING", None))
    assert not silent.too_long(True, ("RUNNING", 1))
    clock.time += 19
    assert not silent.too_long(True, ("RUNNING", 1))
    clock.time += 100
    silent.missed()
    assert not silent.too_long(True, ("RUNNING", 1))
    clock.time += 2
    assert silent.too_long(True, ("RUNNING", 1))
    assert not silent.too_long(True, ("RUNNING", 2))


class Server:
    """A Prefect server with one flow run; `story` says what each look finds."""

    def __init__(self, *story):
        self.story, self.lines, self.states = list(story), [], []

    def read_flow_run(self, identity):
        found = self.story.pop(0) if len(self.story) > 1 else self.story[0]
        if isinstance(found, Exception):
            raise found
        kind, labels = found
        return FlowRun(id=identity, flow_id=uuid4(), state=State(type=kind), labels=labels)

    def read_logs(self, chosen, limit, offset):
        return self.lines[offset : offset + limit]

    def set_flow_run_state(self, identity, state, force):
        self.states.append((state.type, force))


def watched(server, said, progress=None):
    return WatchedRun(server, uuid4(), "gpus", 20.0, lambda: None, said.append, progress)


def test_lines_and_progress_of_a_worker_are_handed_over_once(clock, tmp_path):
    server = Server(
        (StateType.SCHEDULED, {}), (StateType.RUNNING, {STATUS: '{"task": "train"}'}), (StateType.COMPLETED, {})
    )
    server.lines = [SimpleNamespace(name="pipelines.output", message=str(n)) for n in range(300)]
    server.lines.insert(1, SimpleNamespace(name="prefect.flow_runs", message="Beginning flow run"))
    said: list[str] = []
    assert watched(server, said, tmp_path / "status").wait() is not None
    lines = [line for line in said if line != "waits for a free worker of pool gpus"]
    assert lines == [str(n) for n in range(300)]
    assert len(said) == 301
    assert (tmp_path / "status").read_text() == '{"task": "train"}'


def test_a_silent_worker_is_given_up_and_a_server_that_is_away_is_not_its_fault(clock):
    beating = [(StateType.RUNNING, {BEAT: count}) for count in range(40)]
    away = [httpx.ConnectError("away")] * 300
    server = Server(*beating, *away, (StateType.RUNNING, {BEAT: 40}))
    began = clock.time
    assert watched(server, []).wait() is None
    assert 40 + 300 + 20 <= clock.time - began <= 40 + 300 + 23
    assert server.states == [(StateType.CRASHED, True)]


def test_a_server_is_asked_again_unless_it_refuses(clock):
    answers = [httpx.ConnectError("away"), httpx.ConnectError("away"), "done"]

    def ask():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert insist(ask) == "done"
    request = httpx.Request("GET", "http://server")
    for code, tries in ((409, 1), (503, 62)):
        error = httpx.HTTPStatusError("no", request=request, response=httpx.Response(code, request=request))
        answers[:] = [error] * 100
        with pytest.raises(httpx.HTTPStatusError):
            insist(ask)
        assert 100 - len(answers) == tries


def test_a_stage_ends_when_nobody_waits_for_it():
    def run(kind, **labels):
        return FlowRun(id=uuid4(), flow_id=uuid4(), state=State(type=kind), labels=labels)

    watch = stage_flow.Watch.__new__(stage_flow.Watch)
    watch.silence_seconds, watch._heard = 20.0, (None, 0.0)
    assert watch.judge_coordinator(run(StateType.RUNNING, **{BEAT: 1}), 10.0) == ""
    assert watch.judge_coordinator(run(StateType.RUNNING, **{BEAT: 1}), 29.0) == ""
    assert "silent for 21 s" in watch.judge_coordinator(run(StateType.RUNNING, **{BEAT: 1}), 31.0)
    assert watch.judge_coordinator(run(StateType.RUNNING, **{BEAT: 2}), 31.0) == ""
    for kind in (StateType.CANCELLING, StateType.CANCELLED, StateType.CRASHED, StateType.COMPLETED):
        assert watch.judge_coordinator(run(kind, **{BEAT: 3}), 31.0)
        assert judge_own(State(type=kind, timestamp=datetime.now(UTC)))
    assert judge_own(State(type=StateType.RUNNING)) == ""


def test_a_worker_gets_the_entries_of_its_inputs_only(tmp_path):
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages:\n  a: {cmd: x, outs: []}\n  b: {cmd: y}\n")
    assert json.loads(_entries(tmp_path / "dvc.lock", ("a", "c"))) == {
        "schema": "2.0",
        "stages": {"a": {"cmd": "x", "outs": []}},
    }
    assert json.loads(_entries(tmp_path / "none", ("a",)))["stages"] == {}


def test_a_search_gets_the_extractor_of_the_evaluation_that_judges_it():
    """And nothing else that this reads; a search that judges itself needs none."""
    stages = {
        "prepare@digits": ([], ["data/prepared/digits"]),
        "supervised@classifier": (["data/prepared/digits"], ["models/classifier", "reports/figures/classifier"]),
        "generative@vae": (["data/prepared/digits"], ["models/vae", "reports/figures/vae"]),
        "evaluation@quality": (["models/vae", "reports/figures/vae", "models/classifier"], ["reports/metrics/q.json"]),
        "search@by_quality": (["mlml/search", "data/prepared/digits", "models/vae", "reports/metrics/q.json"], []),
        "search@by_loss": (["mlml/search", "data/prepared/digits", "models/vae"], []),
    }
    made = {out: name for name, (_, outs) in stages.items() for out in outs}

    def files(paths):
        return [SimpleNamespace(def_path=path, use_cache=path != "reports/metrics/q.json") for path in paths]

    pool = Pool.__new__(Pool)
    pool.graph = SimpleNamespace(
        stage=lambda name: SimpleNamespace(deps=files(stages[name][0]), outs=files(stages[name][1])),
        nodes={
            name: SimpleNamespace(upstream=tuple(dict.fromkeys(made[path] for path in deps if path in made)))
            for name, (deps, _) in stages.items()
        },
    )
    plain = ("prepare@digits", "generative@vae")
    assert pool._inputs("search@by_loss") == Inputs(plain, ("data/prepared/digits", "models/vae"), ())
    assert pool._inputs("search@by_quality") == Inputs(
        (*plain, "evaluation@quality", "supervised@classifier"),
        ("data/prepared/digits", "models/vae", "models/classifier"),
        ("reports/metrics/q.json",),
    )


@pytest.mark.parametrize("given", ["soon", "2", "nan", "inf"])
def test_the_time_of_silence_is_checked(given):
    assert silence({}) == 60.0
    assert silence({"MLML_WORKER_SILENCE_SECONDS": "12.5"}) == 12.5
    with pytest.raises(WorkspaceError, match=f"MLML_WORKER_SILENCE_SECONDS: must be a number .*; got '{given}'"):
        silence({"MLML_WORKER_SILENCE_SECONDS": given})


def test_a_worker_says_what_it_lacks(monkeypatch, tmp_path):
    with pytest.raises(WorkerError, match=r"^PREFECT_API_URL is not set"):
        needs({})
    shared = {"PREFECT_API_URL": "http://127.0.0.1:1/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:2"}
    with pytest.raises(WorkerError, match=r"^MLFLOW_TRACKING_URI is not set"):
        needs({"PREFECT_API_URL": shared["PREFECT_API_URL"]})
    for name, value in shared.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WorkerError, match="--pool: must not be empty"):
        serve(tmp_path, "a/b", "name", 1)
    with pytest.raises(WorkerError, match="--slots: must be at least 1; got 0"):
        serve(tmp_path, "pool", "name", 0)
