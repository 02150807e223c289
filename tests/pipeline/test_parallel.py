"""The parallel run against the serial one, on the real stages."""

import json
import random
import shutil
import signal
import subprocess
import time
from urllib.request import Request, urlopen

import psutil
import pytest
from project import declaration

pytestmark = pytest.mark.soak

OUTPUTS = ("models", "reports", "data/prepared", "data/checked")


def forget(project):
    """Make the project as if nothing had ever run in it."""
    for name in (*OUTPUTS, ".dvc/cache", ".mlml/runs", ".mlml/reproduce"):
        path = project.folder / name
        for file in path.rglob("*"):
            if file.is_file():
                file.chmod(0o644)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (project.folder / "dvc.lock").unlink(missing_ok=True)


def left_behind(project):
    return (project.folder / "dvc.lock").read_text(), project.hashes(*OUTPUTS)


def post(api, path, **query):
    request = Request(f"{api}{path}", json.dumps(query).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_side_by_side_is_as_one_after_the_other(project):
    assert len(project.repro()) == 12
    serial = left_behind(project)
    for jobs in ("2", "4"):
        forget(project)
        assert "12 ran" in project.run("mlml", "repro", "--jobs", jobs)
        assert left_behind(project) == serial
        assert project.repro() == []


def test_twenty_changes_and_no_entry_is_lost(project):
    project.run("mlml", "repro")
    order = list(project.lock())
    for k in range(1, 21):
        before = project.lock()
        old, new = (f"encoder: rotation, k: {k}" if k > 1 else "encoder: rotation"), f"encoder: rotation, k: {k + 1}"
        project.edit("params.yaml", f"{old}}}", f"{new}}}")
        project.edit("params.yaml", f"train: {{steps: {9 + k}}}", f"train: {{steps: {10 + k}}}")  # of two linear probes
        said = project.run("mlml", "repro", "--jobs", "2" if k % 2 else "4")
        after = project.lock()
        assert list(after) == order
        changed = {name for name in order if after[name] != before[name]}
        assert changed == {"check", "probe@rotation_knn", "probe@simclr_linear", "probe@random_linear", "report"}, said
        assert "waiting for it" not in said
    assert project.repro() == []


def test_a_failed_stage_stops_its_dependents_only(project):
    project.run("mlml", "repro")
    project.edit("mlml/pretext/rotation.py", "import torch\n", "import torch\n\nraise RuntimeError('broken')\n")
    project.edit("params.yaml", "latent_dim: 4", "latent_dim: 5")
    said = project.run("mlml", "repro", "--keep-going", code=1)
    project.edit("mlml/pretext/rotation.py", "\n\nraise RuntimeError('broken')\n", "\n")
    assert "failed: pretext@rotation (exit code 1); its log: " in said
    assert "skipped: probe@rotation_knn, since pretext@rotation failed" in said
    assert "generative@vae: ran" in said
    project.run("mlml", "repro")


LONG = "train: &train {steps: 300, batch_size: 64, log_every: 10, evaluate_every: 50, checkpoint_every: 20}"
SHORT = "train: &train {steps: 12, batch_size: 64, log_every: 2, evaluate_every: 4, checkpoint_every: 5}"


def test_thirty_kills_change_nothing(project):
    """Of the coordinator, a `dvc` or a stage, at any moment, two at a time; nothing is left over, nothing is lost."""
    project.edit("params.yaml", SHORT, LONG)
    forget(project)  # or the report would say of what has run already that it was made of committed files
    project.run("mlml", "repro")
    undisturbed = left_behind(project)
    forget(project)
    chance = random.Random(0)
    kills = 0
    while kills < 30:
        coordinator = project.start("mlml", "repro", "--jobs", "2")
        until = time.monotonic() + chance.uniform(2, 14)
        while time.monotonic() < until and coordinator.poll() is None:
            time.sleep(0.02)
        if coordinator.poll() is not None:
            if coordinator.returncode == 0:
                assert left_behind(project) == undisturbed
                forget(project)
            continue
        victim = chance.choice(victims(coordinator))
        victim.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        kills += 1
        coordinator.wait(900)  # it goes on to the end where the victim was the warm parent
        deadline = time.monotonic() + 60
        while left := own_processes(project):
            assert time.monotonic() < deadline, [process.cmdline() for process in left]
            time.sleep(0.1)
    project.run("mlml", "repro")
    assert left_behind(project) == undisturbed
    assert not any(json.loads((project.folder / ".dvc/tmp/rwlock").read_text()).values())
    assert project.repro() == []


def victims(coordinator: subprocess.Popen) -> list[psutil.Process]:
    """The coordinator and all that runs below it."""
    process = psutil.Process(coordinator.pid)
    return [process, *process.children(recursive=True)]


def own_processes(project) -> list[psutil.Process]:
    """Processes that work in the project; the Prefect server of the tests lives elsewhere."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(project.folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_every_stage_is_a_task_of_one_flow_and_isolated_runs_leave_the_workspace_alone(project, environment):
    project.declare(SMALL)
    said = project.run("mlml", "repro", "simclr_linear")
    assert "probe@simclr_linear: ran" in said
    api = environment["PREFECT_API_URL"]
    chosen = {"name": {"any_": ["simclr_linear"]}}
    [flow] = post(api, "/flow_runs/filter", flow_runs=chosen, sort="START_TIME_DESC", limit=1)

    def names():
        tasks = post(api, "/task_runs/filter", flow_runs={"id": {"any_": [flow["id"]]}})
        return {task["name"]: task["state_name"] for task in tasks}

    deadline = time.monotonic() + 30
    wanted = dict.fromkeys(("check", "pretext@simclr", "probe@simclr_linear"), "Completed")
    while not wanted.items() <= names().items():
        assert time.monotonic() < deadline, names()
        time.sleep(0.1)
    logs = post(api, "/logs/filter", logs={"flow_run_id": {"any_": [flow["id"]]}}, limit=200)
    assert any("pretext@simclr | Running stage 'pretext@simclr':" in log["message"] for log in logs)

    before = project.run("git", "status", "--porcelain"), project.hashes("params.yaml", "dvc.lock", *OUTPUTS)
    said = project.run("mlml", "repro", "simclr_linear", "--set", "pretext.simclr.temperature=0.2,x", code=2)
    assert "simclr-temperature-x: pretext.simclr.temperature: must be a valid number" in said
    said = project.run("mlml", "repro", "simclr_linear", "--set", "pretext.simclr.temperature=0.2,0.5")
    assert "simclr-temperature-0.2: done" in said
    assert "simclr-temperature-0.5: done" in said
    assert (project.run("git", "status", "--porcelain"), project.hashes("params.yaml", "dvc.lock", *OUTPUTS)) == before
    lines = project.run("dvc", "exp", "show", "--json").splitlines()
    shown = json.loads(next(line for line in lines if line[:1] == "["))
    table = {one["name"]: one for entry in shown for one in entry.get("experiments") or [] for one in one["revs"]}
    found = {
        name: one["data"]["params"]["params.yaml"]["data"]["pretext"]["simclr"]["temperature"]
        for name, one in table.items()
    }
    assert found == {"simclr-temperature-0.2": 0.2, "simclr-temperature-0.5": 0.5}
    program = (
        "import json; from mlml.tracking.store import find_runs\n"
        "tags = {'dvc.exp': 'simclr-temperature-0.5', 'dvc.stage': 'pretext@simclr'}\n"
        "runs = find_runs('sqlite:///.mlml/mlflow.db', tags)\n"
        "found = [run.data.params['pretext.simclr.temperature'] for run in runs if 'mlml.seed' not in run.data.tags]\n"
        "print(json.dumps(found))"
    )
    assert json.loads(project.run("python", "-c", program).splitlines()[-1]) == ["0.5"]


SMALL = declaration(
    "steps: 6, batch_size: 64",
    """
supervised: {}
pretext:
  simclr: {method: simclr, dataset: digits, encoder: *encoder, train: *train}
probe:
  simclr_linear: {method: linear, dataset: digits, encoder: simclr, train: {steps: 6}}
generative: {}
""",
    width=8,
)
