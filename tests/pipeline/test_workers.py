"""Two workers in workspaces of their own, one of which dies."""

import json
import signal

import pytest
from machines import ALL, TEN_STAGES, Machines, everything_below, lose_power, serial_run, until
from processes import alive
from project import Project

pytestmark = pytest.mark.soak

LONG = TEN_STAGES.replace(
    "rotation, dataset: digits, encoder: *encoder, train: *train",
    "rotation, dataset: digits, encoder: *encoder, "
    "train: {steps: 2000, batch_size: 64, log_every: 100, evaluate_every: 500, checkpoint_every: 100}",
)


@pytest.fixture
def machines(tmp_path, environment):
    project = Project(tmp_path / "coordinator", environment)
    (tmp_path / "remote").mkdir()
    shared = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLML_WORKER_SILENCE_SECONDS": "20",
        "MLML_CHECKPOINT_REMOTE": str(tmp_path / "checkpoints"),
    }
    return Machines(project, tmp_path, {"url": str(tmp_path / "remote")}, **shared)


def test_two_workers_leave_what_a_serial_run_leaves(machines, tmp_path_factory, environment):
    project = machines.project
    project.declare(TEN_STAGES)
    said = project.run("mlml", "repro", *ALL, "--pool", "nobody", code=1)
    assert "params.yaml: differs from commit " in said
    machines.publish("Declare")
    said = project.run("mlml", "repro", *ALL, "--pool", "nobody", code=1)
    assert "--pool nobody: Prefect has no work pool of this name" in said
    with machines.worker("ada", "ten"), machines.worker("bob", "ten"):
        said = project.run("mlml", "repro", *ALL, "--pool", "ten", "--jobs", "4")
        assert "10 ran" in said
        assert "probe@random_knn | Running stage 'probe@random_knn':" in said
    ran = [machines.ran("ada"), machines.ran("bob")]
    assert all(ran)
    assert sorted(ran[0] + ran[1]) == sorted(set(project.lock()) - {"check", "prepare@digits"})
    serial = serial_run(tmp_path_factory.mktemp("serial"), environment, TEN_STAGES, *ALL)
    assert machines.left_behind() == serial
    assert not list((machines.folder / "checkpoints").rglob("*.ckpt"))
    assert project.repro(*ALL) == []


def test_a_worker_that_dies_is_replaced_from_the_last_checkpoint(machines, tmp_path_factory, environment):
    project = machines.project
    project.declare(LONG)
    machines.publish("Declare")
    coordinator = None
    try:
        with machines.worker("eve", "dies") as eve:
            coordinator = project.start("mlml", "repro", "pretext@rotation", "--pool", "dies")
            until(lambda: list((machines.folder / "checkpoints").rglob("*.ckpt")), coordinator)
            lose_power(eve)
        with machines.worker("fay", "dies"):
            coordinator.wait(900)
    finally:
        if coordinator is not None and coordinator.poll() is None:
            coordinator.terminate()
            coordinator.wait(90)
    said = (project.folder / "started.log").read_text()
    assert coordinator.returncode == 0, said
    assert "its worker is silent; it is given to another (try 1 of 3)" in said
    assert "pretext@rotation | resumed at step " in said
    serial = serial_run(tmp_path_factory.mktemp("serial"), environment, LONG, "pretext@rotation")
    assert machines.left_behind() == serial
    program = (
        "import json; from mlml.tracking.store import find_runs\n"
        f"runs = find_runs('sqlite:///{machines.folder}/mlflow.db', {{'dvc.stage': 'pretext@rotation'}})\n"
        "print(json.dumps([run.info.status for run in runs]))"
    )
    assert set(json.loads(project.run("python", "-c", program).splitlines()[-1])) == {"FINISHED", "KILLED"}


def test_an_interrupted_coordinator_ends_its_stage_on_the_worker(machines):
    project = machines.project
    project.declare(LONG)
    machines.publish("Declare")
    with machines.worker("gus", "stops") as worker:
        coordinator = project.start("mlml", "repro", "pretext@rotation", "--pool", "stops")
        try:
            until(lambda: list((machines.folder / "checkpoints").rglob("*.ckpt")), coordinator)
            stages = [process for process in everything_below(worker) if "stages" in process.cmdline()]
            assert stages
            coordinator.send_signal(signal.SIGINT)
            assert coordinator.wait(120) != 0
        finally:
            if coordinator.poll() is None:
                coordinator.kill()
        until(lambda: not any(map(alive, stages)), worker, 60)
        said = project.run("mlml", "repro", "pretext@rotation", "--pool", "stops")
        assert "pretext@rotation | resumed at step " in said
