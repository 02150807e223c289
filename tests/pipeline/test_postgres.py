"""MLflow, Prefect and Optuna on a real PostgreSQL, by settings alone."""

import json
import os
import shutil
import subprocess
import sys
from urllib.request import ProxyHandler, build_opener

import postgres
import pytest
import search_kills
from machines import ALL, TEN_STAGES, Machines, serial_run
from project import Project
from test_search import COMMAND, OUTPUTS, TEXT, wait_for

from stages import _servers

pytestmark = pytest.mark.soak

STUDY = """
import json, os, signal, sys
from pathlib import Path
from mlml.search._study import run_study
from mlml.search.tpe import TPE

folder, trial, moment = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
config = TPE.Config.model_validate({
    "experiment": "toy", "objective": "toy", "trials": 7, "startup_trials": 3, "metric": "validation/loss",
    "space": {"x": {"type": "float", "low": -1.0, "high": 1.0}},
})

def objective(values, number, _, report):
    for step in range(3):
        if (number, step) == (trial, moment):
            os.kill(os.getpid(), signal.SIGKILL)
        report(step, values["x"] ** 2 + 1 / (step + 1))
    return values["x"] ** 2

records = run_study(config, TPE(config).sampler, folder, objective, 0, "toy/key")
print(json.dumps([[r.number, r.state, r.value, r.parameters, list(r.evaluations.items())] for r in records]))
"""


@pytest.fixture(scope="module")
def address():
    with postgres.server() as address:
        postgres.make_databases(address, "prefect", "mlflow", "optuna", "studies")
        yield address


def test_a_study_goes_on_on_another_machine_after_every_kill(address, tmp_path, monkeypatch):
    def run(machine, *moment, **environment):
        words = [sys.executable, "-c", STUDY, str(tmp_path / machine), *map(str, moment)]
        return subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True)

    whole = run("whole", -1, -1)
    assert whole.returncode == 0, whole.stderr
    database = {"MLML_OPTUNA_STORAGE": f"{address}/studies"}
    for number, moment in enumerate([(0, 0), (2, 1), (5, 2)]):
        assert run(f"killed_{number}", *moment, **database).returncode == -9
    last = run("last", -1, -1, **database)
    assert json.loads(last.stdout) == json.loads(whole.stdout), last.stderr
    assert [record[0] for record in json.loads(last.stdout)] == list(range(7))
    monkeypatch.setenv("MLML_OPTUNA_STORAGE", database["MLML_OPTUNA_STORAGE"])
    try:
        url = _servers.start_dashboard(tmp_path)
        [study] = read(f"{url}/api/studies")["study_summaries"]
        shown = read(f"{url}/api/studies/{study['study_id']}")
    finally:
        _servers.stop(tmp_path)
    assert study["study_name"] == "toy/key"
    values = {trial["number"]: trial["values"] for trial in shown["trials"] if trial["state"] == "Complete"}
    assert values == {record[0]: [record[2]] for record in json.loads(last.stdout) if record[1] == "complete"}


def read(url):
    with build_opener(ProxyHandler({})).open(url, timeout=30) as answer:
        return json.loads(answer.read())


def test_ten_kills_of_workers_and_coordinator_lose_no_trial_and_count_none_twice(address, tmp_path, monkeypatch):
    expected = search_kills.undisturbed(tmp_path / "whole")
    monkeypatch.setenv("MLML_OPTUNA_STORAGE", f"{address}/studies")
    records, trials = search_kills.killed_ten_times(tmp_path / "killed", "kills/key")
    search_kills.check(records, trials, expected)
    assert not (tmp_path / "killed" / "journal.log").exists()


@pytest.fixture(scope="module")
def on_postgres(address, environment, tmp_path_factory):
    """The environment of a project with a Prefect server of its own, on PostgreSQL."""
    home = tmp_path_factory.mktemp("servers")
    setting = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": address.replace("://", "+asyncpg://") + "/prefect"}
    before = dict(os.environ)
    try:
        os.environ.pop("PREFECT_API_URL", None)
        os.environ.update(setting)
        url = _servers.ensure_prefect(home)
        assert url is not None
        yield {
            **environment,
            "PREFECT_API_URL": url,
            "MLFLOW_TRACKING_URI": f"{address}/mlflow",
            "MLML_OPTUNA_STORAGE": f"{address}/optuna",
            "MLML_WORKER_SILENCE_SECONDS": "60",
        }
    finally:
        os.environ.clear()
        os.environ.update(before)
        _servers.stop(home)


def test_the_pipeline_runs_on_workers_with_every_store_on_postgresql(
    address, on_postgres, environment, tmp_path, tmp_path_factory
):
    import psycopg

    project = Project(tmp_path / "coordinator", on_postgres)
    project.declare(TEN_STAGES)
    (tmp_path / "remote").mkdir()
    machines = Machines(project, tmp_path, {"url": str(tmp_path / "remote")})
    with machines.worker("ada", "postgres"), machines.worker("bob", "postgres"):
        assert "10 ran" in project.run("mlml", "repro", *ALL, "--pool", "postgres", "--jobs", "4")
    assert machines.left_behind() == serial_run(tmp_path_factory.mktemp("serial"), environment, TEN_STAGES, *ALL)
    with psycopg.connect(f"{address}/prefect") as connection:
        [[count]] = connection.execute("SELECT count(*) FROM flow_run WHERE name = 'search@rate'")
        assert count == 2  # the worker's, and the stage's own
    with psycopg.connect(f"{address}/mlflow") as connection:
        query = "SELECT count(*) FROM tags JOIN runs USING (run_uuid) WHERE key = 'mlml.trial' AND status = 'FINISHED'"
        [[count]] = connection.execute(query)
        assert count == 2
    with psycopg.connect(f"{address}/optuna") as connection:
        assert connection.execute("SELECT count(*) FROM studies").fetchone() == (1,)
        query = "SELECT count(*) FROM studies JOIN study_user_attributes USING (study_id) WHERE key = 'over'"
        assert connection.execute(query).fetchone() == (1,)
        assert connection.execute("SELECT last_value FROM trials_trial_id_seq").fetchone() == (2,)


TRIALS = 9
SEARCH = TEXT.replace("trials: 6", f"trials: {TRIALS}").replace("steps: 600", "steps: 1500")
RUNS = """
import json, os
from mlml.tracking.store import find_runs
runs = find_runs(os.environ["MLFLOW_TRACKING_URI"], {"dvc.stage": "search@rate"})
print(json.dumps([[run.info.run_id, run.info.status, run.data.tags, run.data.metrics] for run in runs]))
"""


def test_a_worker_in_another_checkout_takes_part_in_what_reaches_the_storage(on_postgres, tmp_path):
    """Each trial is run once, in one of the two; MLflow has them all in the run of the stage."""
    project = Project(tmp_path / "coordinator", on_postgres)

    def runs():
        return json.loads(project.run("python", "-c", RUNS).splitlines()[-1])

    project.declare(SEARCH)
    project.run("dvc", "repro", "search@rate")
    alone, before = project.hashes(*OUTPUTS), {run for run, *_ in runs()}

    other = Project(tmp_path / "other", on_postgres)
    other.declare(SEARCH)
    for name in ("data", "models", "reports", "dvc.lock"):
        whole = shutil.copytree if (project.folder / name).is_dir() else shutil.copy
        whole(project.folder / name, other.folder / name, **({"dirs_exist_ok": True} if name == "data" else {}))
    assert "no search is under way" in other.run("mlml", "search", "worker", "rate", code=2)
    dvc, log = project.start(*COMMAND), project.folder / "started.log"
    wait_for(lambda: "trial 0: " in log.read_text(), "the first trial")
    said = other.run("mlml", "search", "worker", "rate")
    assert dvc.wait(120) == 0, log.read_text()
    assert project.hashes(*OUTPUTS) == alone

    ran = [
        {int(folder.name.removeprefix("trial_")) for folder in each.folder.glob(".mlml/runs/search@rate/*/trial_*")}
        for each in (project, other)
    ]
    first = {number for number in range(TRIALS) if f"trial {number}: " in log.read_text()}
    assert ran[1], said
    assert first.isdisjoint(ran[1])
    assert first | ran[1] == set(range(TRIALS))
    new = [run for run in runs() if run[0] not in before]
    [parent] = [run for run, _, tags, _ in new if "mlml.trial" not in tags]
    trials = {int(tags["mlml.trial"]): (tags, metrics) for _, _, tags, metrics in new if "mlml.trial" in tags}
    assert len(new) == 1 + TRIALS
    assert sorted(trials) == list(range(TRIALS))
    assert {status for _, status, _, _ in new} == {"FINISHED"}
    for tags, metrics in trials.values():
        assert tags["mlflow.parentRunId"] == parent
        assert tags["mlml.trial.state"] in ("complete", "pruned")
        assert tags["mlml.trial.failure"] == ""
        assert ("objective" in metrics) == (tags["mlml.trial.state"] == "complete")
    assert not list(other.folder.glob(".mlml/runs/**/*.ckpt"))
