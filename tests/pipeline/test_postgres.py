"""MLflow, Prefect and Optuna on a real PostgreSQL, by settings alone."""

import json
import os
import subprocess
import sys
from urllib.request import ProxyHandler, build_opener

import postgres
import pytest
import search_kills
from machines import ALL, TEN_STAGES, Machines, serial_run
from project import Project

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
