"""A search stage with a worker beside it: one run of MLflow and one task of Prefect for each trial, and kills."""

import json
import os
import signal
import time
import urllib.request

import psutil
import pytest
from processes import alive
from project import declaration

TRIALS = 6
OUTPUTS = ("reports/search/rate", "reports/metrics/rate.json", "reports/figures/rate")
COMMAND = ("dvc", "repro", "--single-item", "--force", "--no-run-cache", "search@rate")
TEXT = declaration(
    "steps: 600, batch_size: 64, log_every: 20, evaluate_every: 100, checkpoint_every: 40",
    """
supervised:
  classifier: {method: classifier, dataset: digits, encoder: *encoder, train: *train}
pretext: {}
probe: {}
generative: {}
""",
    trials=TRIALS,
).replace(f"trials: {TRIALS}", f"trials: {TRIALS}\n    workers: 2")

RUNS = """
import json, mlflow
client = mlflow.MlflowClient('sqlite:///.mlml/mlflow.db')
experiment = client.get_experiment_by_name('mlml').experiment_id
runs = client.search_runs([experiment], "tags.`dvc.stage` = 'search@rate'", max_results=100)
print(json.dumps([[run.info.run_id, run.info.status, run.data.tags, run.data.metrics] for run in runs]))
"""


@pytest.fixture(scope="module")
def searched(project):
    """The project after an undisturbed search by forks of a warm parent, with the hashes of what it left."""
    project.declare(TEXT)
    project.run("mlml", "repro", "search@rate")
    return project.hashes(*OUTPUTS)


def runs(project):
    return json.loads(project.run("python", "-c", RUNS).strip().splitlines()[-1])


def ask(project, path, **body):
    request = urllib.request.Request(
        project.environment["PREFECT_API_URL"] + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_each_trial_is_a_nested_run_and_a_task(project, searched):
    found = runs(project)
    [parent] = [(run, tags) for run, _, tags, _ in found if "mlflow.parentRunId" not in tags]
    trials = [(tags, metrics) for _, _, tags, metrics in found if "mlflow.parentRunId" in tags]
    assert {status for _, status, _, _ in found} == {"FINISHED"}
    assert sorted(tags["mlml.trial"] for tags, _ in trials) == [str(number) for number in range(TRIALS)]
    assert {tags["mlflow.parentRunId"] for tags, _ in trials} == {parent[0]}
    for tags, metrics in trials:
        assert tags["mlml.trial.state"] in ("complete", "pruned")
        assert ("objective" in metrics) == (tags["mlml.trial.state"] == "complete")
    flow = parent[1]["prefect.flow_run_id"]
    tasks = ask(project, "/task_runs/filter", flow_runs={"id": {"any_": [flow]}})
    names = sorted(task["name"] for task in tasks if task["name"].startswith("trial "))
    assert names == [f"trial {number}" for number in range(TRIALS)]
    assert {task["state"]["type"] for task in tasks} == {"COMPLETED"}


def test_both_processes_ran_trials(project, searched):
    [journal] = project.folder.glob(".mlml/runs/search@rate/*/study/journal.log")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    ran = [line["user_attrs"]["worker"]["pid"] for line in lines if "worker" in line.get("user_attrs", {})]
    assert (len(ran), len(set(ran))) == (TRIALS, 2)


def workers(project):
    """Processes beside the stage, which begin on their own where no warm parent forks them."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if (process.info["cmdline"] or [])[1:4] == ["-m", "stages._search_worker", "rate"]
        and process.info["cwd"] == str(project.folder)
    ]


def stage_of(worker):
    return worker.parent()


def wait_for(condition, what):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited in vain for {what}")


def test_a_killed_worker_and_a_killed_stage_change_nothing(project, searched):
    """The worker is replaced, its trial taken over; the worker of a killed stage ends with it; no warm parent."""
    begun = len(runs(project))
    dvc = project.start(*COMMAND)
    [worker] = wait_for(lambda: workers(project), "the worker")
    stage = stage_of(worker)
    log = project.folder / "started.log"
    wait_for(lambda: "trial 1: " in log.read_text(), "the second trial")
    os.kill(worker.pid, signal.SIGKILL)
    [other] = wait_for(
        lambda: [each for each in workers(project) if each.pid != worker.pid and alive(each)], "another worker"
    )
    wait_for(lambda: "trial 3: " in log.read_text(), "the fourth trial")
    os.kill(stage.pid, signal.SIGKILL)
    dvc.wait(120)
    assert dvc.returncode != 0
    wait_for(lambda: not alive(other), "the end of the worker")
    project.run(*COMMAND)
    assert project.hashes(*OUTPUTS) == searched
    text = log.read_text()
    assert "worker 1 of the search ended with code -9" in text
    new = runs(project)
    assert len(new) == begun + 1 + TRIALS  # one more of each, whatever was killed
    assert {status for _, status, _, _ in new} == {"FINISHED"}


@pytest.mark.soak
def test_a_worker_from_elsewhere_takes_part_and_leaves_when_no_trial_is_left(project, searched):
    project.edit("params.yaml", "workers: 2", "workers: 3")  # of which one comes too late, or never
    refused = project.run("mlml", "search", "worker", "rate", code=2)
    assert "no search is under way with this code, data and numbers" in refused
    assert "no search 'rat' is declared (known: rate)" in project.run("mlml", "search", "worker", "rat", code=2)
    before = len(trials_of(project))
    dvc = project.start("dvc", "repro", "--single-item", "search@rate")
    log = project.folder / "started.log"
    already = log.read_text().count("trial 0: ")
    wait_for(lambda: log.read_text().count("trial 0: ") > already, "the first trial")
    said = project.run("mlml", "search", "worker", "rate")
    assert dvc.wait(120) == 0
    assert "trials of 'rate', of which none is left" in said
    assert len(trials_of(project)) == before + TRIALS


def trials_of(project):
    return [run for run, status, tags, _ in runs(project) if "mlml.trial" in tags and status == "FINISHED"]
