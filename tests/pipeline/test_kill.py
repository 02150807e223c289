"""A stage killed at any moment, and run again, ends bit for bit as if it had not been killed."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from processes import alive

LONG = (
    "train: &train {steps: 400, batch_size: 64, log_every: 7, evaluate_every: 50, checkpoint_every: 20, ema_decay: 0.9}"
)
SHORT = "train: &train {steps: 12, batch_size: 64, log_every: 2, evaluate_every: 4, checkpoint_every: 5}"
LIMIT_SECONDS = 120


def trained(name: str) -> tuple[str, ...]:
    """What every training stage leaves behind."""
    reports = ("metrics/{}.json", "curves/{}.csv", "diagnostics/{}.json")
    return f"models/{name}", *(f"reports/{report.format(name)}" for report in reports)


OUTPUTS = {
    "pretext@simclr": trained("simclr"),
    "generative@vae": (*trained("vae"), "reports/figures/vae"),
    "search@rate": ("reports/search/rate", "reports/metrics/rate.json", "reports/figures/rate"),
}


@pytest.fixture(scope="module")
def whole(project) -> dict[str, dict[str, str]]:
    """Outputs and metric history of each stage, made without a kill, and warm: the tests below kill cold stages."""
    project.edit("params.yaml", SHORT, LONG)
    with project.warm():
        project.repro(*OUTPUTS)
    return {stage: left_behind(project, stage) for stage in OUTPUTS}


def left_behind(project, stage: str) -> dict[str, str]:
    """Hashes of the outputs, and every metric point but the timings."""
    history = {}
    for path in sorted((project.folder / ".mlml/runs" / stage).rglob("points.jsonl")):
        points = [json.loads(line) for line in path.open()]
        history[path.parent.name] = [
            (p["name"], p["step"], p["value"]) for p in points if not p["name"].startswith("system/")
        ]
    return {**project.hashes(*OUTPUTS[stage]), "history": json.dumps(history)}


def processes(stage: str, folder: Path) -> list[psutil.Process]:
    """The stage's own process, under `dvc`, or the client that stands for a warm one; and what it has forked."""
    group, name = stage.split("@")
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if words[1:] == ["-m", "stages", group, name] and process.info["cwd"] == str(folder):
            found.append(process)
    return found


def own_process(stage: str, folder: Path) -> psutil.Process | None:
    """The one of `processes` that has forked the others: they send the points."""
    found = processes(stage, folder)
    pids = {process.pid for process in found}
    first = [process for process in found if process.ppid() not in pids]
    return first[0] if first else None


def wait_for(condition: Callable[[], object], what: str) -> object:
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError(f"waited in vain for {what}")


def newest_step(runs: Path) -> int:
    names = [path.stem for path in runs.rglob("step_*.ckpt")]
    return max((int(name.removeprefix("step_")) for name in names), default=-1)


# the stages that were killed and brought to their end, one entry for each time
MADE_AGAIN: list[str] = []

MOMENTS = {
    "pretext@simclr": [
        ("stage", lambda runs: runs.exists()),
        ("stage", lambda runs: newest_step(runs) >= 40),
        ("dvc", lambda runs: newest_step(runs) >= 200),
        ("stage", lambda runs: newest_step(runs / "..") >= 40 and len(list(runs.rglob("seed_1/*.ckpt"))) > 0),
    ],
    "generative@vae": [("dvc", lambda runs: newest_step(runs) >= 20), ("stage", lambda runs: newest_step(runs) >= 300)],
    "search@rate": [
        ("stage", lambda runs: list(runs.rglob("trial_0000/*.ckpt"))),
        ("dvc", lambda runs: list(runs.rglob("trial_0001/*.ckpt"))),
        ("stage", lambda runs: list(runs.rglob("trial_0002/*.ckpt"))),
    ],
}


COMMAND = ("dvc", "repro", "--single-item", "--force", "--no-run-cache")


def forget(project, stage: str) -> Path:
    """Remove what could bring the stage's result back, DVC's cache and earlier records; returns the runs' folder."""
    runs = project.folder / ".mlml/runs" / stage
    for path in [*runs.rglob("*"), *(project.folder / ".dvc/cache").rglob("*")]:
        if path.is_file():
            path.chmod(0o644)
            path.unlink()
    for path in sorted(runs.rglob("*"), reverse=True):
        path.rmdir()
    runs.rmdir()
    return runs


@pytest.mark.parametrize("stage", OUTPUTS)
def test_a_killed_stage_ends_the_same(project, whole, stage):
    runs = forget(project, stage)
    for victim, moment in MOMENTS[stage]:
        dvc = project.start(*COMMAND, stage)
        wait_for(lambda moment=moment: moment(runs), f"the moment to kill {victim} of {stage}")
        process = wait_for(lambda: own_process(stage, project.folder), f"the process of {stage}")
        os.kill(process.pid if victim == "stage" else dvc.pid, signal.SIGKILL)
        dvc.wait(LIMIT_SECONDS)
        assert dvc.returncode != 0
        wait_for(lambda: not processes(stage, project.folder), "the end of the stage: no orphan may go on")
    project.run(*COMMAND, stage)
    assert left_behind(project, stage) == whole[stage]
    MADE_AGAIN.append(stage)
    log = (project.folder / "started.log").read_text()
    assert ("goes on where process" if stage == "search@rate" else "resumed at step") in log


OWNER = (
    "import time; from pathlib import Path; from stages._warm_start import warm\nwith warm(Path.cwd()): time.sleep(999)"
)


@pytest.mark.soak
def test_a_killed_warm_stage_ends_as_a_cold_one(project, whole):
    """Forked from the warm parent, and killed in every way: what it leaves is what the cold stage leaves."""
    stage = "pretext@simclr"
    runs, warm = forget(project, stage), project.folder / ".mlml/warm"
    owner = project.start("python", "-c", OWNER)
    try:
        wait_for(lambda: list(warm.glob("*/socket")), "the warm parent")
        parent = psutil.Process(int(next(warm.glob("*/lock")).read_text().split()[0]))
        for victim, step in (("stage", 40), ("client", 120), ("dvc", 200), ("parent", 280)):
            dvc = project.start(*COMMAND, stage)
            wait_for(lambda dvc=dvc, step=step: newest_step(runs) >= step or dvc.poll() is not None, f"step {step}")
            client = own_process(stage, project.folder)
            forked = psutil.Process(int(next(runs.glob("*/lock")).read_text()))
            assert forked.ppid() == parent.pid
            {"stage": forked, "client": client, "dvc": dvc, "parent": parent}[victim].kill()
            dvc.wait(LIMIT_SECONDS)
            assert dvc.returncode != 0
            wait_for(
                lambda forked=forked: not alive(forked) and not processes(stage, project.folder), "the stage's end"
            )
        assert not alive(parent)
    finally:
        owner.kill()
        owner.wait()
    project.run(*COMMAND, stage)
    assert left_behind(project, stage) == whole[stage]
    MADE_AGAIN.append(stage)


def test_a_killed_run_is_one_run_in_mlflow(project, whole):
    program = (
        "import json, mlflow\n"
        "client = mlflow.MlflowClient('sqlite:///.mlml/mlflow.db')\n"
        "experiment = client.get_experiment_by_name('mlml').experiment_id\n"
        "result = {}\n"
        "for stage in ('pretext@simclr', 'generative@vae', 'search@rate'):\n"
        "    for run in client.search_runs([experiment], f\"tags.`dvc.stage` = '{stage}'\", max_results=100):\n"
        "        steps = [p.step for p in client.get_metric_history(run.info.run_id, 'train/loss')]\n"
        "        row = [run.info.run_name, run.info.status, len(steps), len(set(steps))]\n"
        "        result.setdefault(stage, []).append(row)\n"
        "print(json.dumps(result))"
    )
    found = json.loads(project.run("python", "-c", program).strip().splitlines()[-1])
    for stage, runs in found.items():
        assert {status for _, status, _, _ in runs} == {"FINISHED"}, (stage, runs)
        assert all(count == distinct for _, _, count, distinct in runs), (stage, runs)
        names = [name for name, *_ in runs]
        # the undisturbed run, and one for each time that the stage was killed and brought to its end
        assert all(names.count(name) == 1 + MADE_AGAIN.count(stage) for name in names), (stage, names)
