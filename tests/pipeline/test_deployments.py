"""The deployments: what their forms offer, and that their runs are recorded, queued, cancelled, and started again."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
from ruamel.yaml import YAML

from mlml import declaration
from pipelines import servers
from stages import _servers

SECONDS = 120.0

STAGES = """
stages:
  first: {cmd: 'echo from the first stage; echo 1 > first.txt', outs: [first.txt]}
  slow: {cmd: python slow.py, deps: [first.txt], outs: [slow.txt]}
"""

# leaves a checkpoint and waits to be ended; run again, it goes on from that
SLOW = """
import time
from pathlib import Path
from stages._life import end_with_dvc

end_with_dvc()
if not Path("kept").exists():
    Path("kept").touch()
    time.sleep(1000)
Path("slow.txt").write_text("done")
"""


@pytest.fixture
def no_changes_to_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def declared(schedules: dict[str, Any]) -> declaration.Declaration:
    content = YAML(typ="safe").load(Path("experiments/quick.yaml"))
    return declaration.check({**content, "schedules": schedules})


def test_the_forms_offer_what_is_declared(tmp_path, no_changes_to_environment):
    from pipelines import deployments, flows

    assert flows  # Prefect keeps the settings that it finds when it is imported
    schedules = {
        "nightly": {"cron": "0 3 * * *", "timezone": "Europe/Berlin", "targets": ["simclr", "report"]},
        "often": {"interval_seconds": 60},
    }
    os.environ["PREFECT_API_URL"] = "http://elsewhere:4200/api"
    reproduce, search, sweep = deployments.declare(tmp_path, declared(schedules))
    forms = [form._parameter_openapi_schema.model_dump() for form in (reproduce, search, sweep)]
    for form in forms:
        assert all(field["description"] and field["title"] for field in form["properties"].values())
    targets = forms[0]["properties"]["targets"]["items"]["enum"]
    assert {"simclr", "pretext", "pretext@simclr", "prepare@digits", "report"} <= set(targets)
    assert forms[2]["properties"]["targets"]["items"]["enum"] == targets
    assert forms[1]["properties"]["name"]["enum"] == ["classifier_rate"]
    assert (forms[0].get("required", []), forms[1]["required"], forms[2]["required"]) == ([], ["name"], ["values"])
    nightly, often = reproduce.schedules
    assert (nightly.slug, nightly.schedule.cron, nightly.schedule.timezone) == ("nightly", "0 3 * * *", "Europe/Berlin")
    assert nightly.parameters == {"targets": ["simclr", "report"]}
    assert (often.slug, often.schedule.interval, often.parameters) == ("often", timedelta(minutes=1), {"targets": []})
    # on a server that is not the workspace's own, another workspace has deployments, too
    other = deployments.declare(tmp_path / "other", declared({}))
    assert not {form.name for form in other} & {form.name for form in (reproduce, search, sweep)}


class Served:
    """A workspace of shell stages whose deployments are served, and the API of its Prefect server."""

    def __init__(self, project, api: str) -> None:
        self.project, self.api = project, api
        (project.folder / "dvc.yaml").write_text(STAGES)
        (project.folder / "slow.py").write_text(SLOW)
        assert _servers.serve_deployments(project.folder, api) is True

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                with urlopen(Request(self.api + path, data, {"Content-Type": "application/json"}), timeout=30) as got:
                    return json.load(got)
            except HTTPError as error:  # its sqlite store is busy; Prefect's own client asks again, too
                if error.code != 503 or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def deployment(self, kind: str) -> Any:
        tag = {"tags": {"all_": [self.project.folder.resolve().name]}}
        found = self.ask("/deployments/filter", {"deployments": {**tag, "name": {"like_": kind}}})
        return found[0]

    def start(self, kind: str, **parameters: Any) -> str:
        deployment = self.deployment(kind)
        return self.ask(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})["id"]

    def run(self, run: str) -> Any:
        return self.ask(f"/flow_runs/{run}")

    def tasks(self, run: str) -> dict[str, str]:
        found = self.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {task["name"]: task["state_name"] for task in found}

    def logs(self, run: str) -> str:
        found = self.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"})
        return "\n".join(line["message"] for line in found)

    def log(self) -> str:
        return (self.project.folder / ".mlml" / "deployments" / "server.log").read_text()[-3000:]

    def server(self) -> psutil.Process:
        record = json.loads((self.project.folder / ".mlml" / "deployments" / "server.json").read_text())
        return psutil.Process(record["pid"])

    def engines(self) -> list[psutil.Process]:
        """Processes of the runs."""
        return [process for process in self.server().children() if "prefect.engine" in process.cmdline()]

    def until(self, happened: Callable[[], bool], what: Callable[[], Any]) -> None:
        """Wait; end at once when the process that serves has died."""
        deadline = time.monotonic() + SECONDS
        while not happened():
            assert time.monotonic() < deadline, (what(), self.log())
            assert self.server().is_running(), self.log()
            time.sleep(0.2)

    def ends(self, run: str) -> Any:
        """Wait for the end of a run; returns its state."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        self.until(lambda: self.run(run)["state_type"] in final, lambda: self.run(run)["state"])
        return self.run(run)["state"]


@pytest.fixture(scope="module")
def served(project, environment) -> Iterator[Served]:
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield Served(project, environment["PREFECT_API_URL"])
    finally:
        servers.down(project.folder)
        os.environ.clear()
        os.environ.update(before)


def test_a_run_is_checked_queued_cancelled_and_goes_on(served):
    refused = served.start("reproduce", overrides=["pretext.simclr.temperature=-1"])
    state = served.ends(refused)
    assert state["name"] == "Failed"
    assert "pretext.simclr.temperature: must be greater than 0; got -1" in state["message"]
    assert served.tasks(refused) == {}

    kept = served.project.folder / "kept"
    cancelled = served.start("reproduce")
    served.until(kept.exists, lambda: served.logs(cancelled))
    other, waiting = served.start("search", name="rate"), served.start("reproduce", jobs=1)
    for run in (other, waiting):
        served.until(
            lambda run=run: served.run(run)["state_name"] == "AwaitingConcurrencySlot",
            lambda run=run: served.run(run)["state"],
        )
    served.ask(f"/flow_runs/{other}/set_state", {"state": {"type": "CANCELLED"}})
    [engine] = served.engines()
    stages = engine.children(recursive=True)
    served.ask(f"/flow_runs/{cancelled}/set_state", {"state": {"type": "CANCELLING"}})
    assert served.ends(cancelled)["name"] == "Cancelled"
    assert stages
    assert not [process for process in stages if process.is_running()]

    assert served.ends(waiting)["name"] == "Completed", served.logs(waiting)
    served.until(lambda: served.tasks(waiting) == {"slow": "Completed"}, lambda: served.tasks(waiting))
    assert "from the first stage" in served.logs(cancelled)
    served.until(lambda: "up to date already: first" in served.logs(waiting), lambda: served.logs(waiting))
    [artifact] = served.ask("/artifacts/filter", {"flow_runs": {"id": {"any_": [waiting]}}})
    assert artifact["key"] == "leaderboard"
    assert "| slow | ran |" in artifact["data"]


def test_a_run_that_dies_is_started_again_and_goes_on(served):
    kept, made = served.project.folder / "kept", served.project.folder / "slow.txt"
    for path in (kept, made):
        path.unlink(missing_ok=True)
    run = served.start("reproduce", force=True)
    served.until(kept.exists, lambda: served.logs(run))
    [engine] = served.engines()
    stages = engine.children(recursive=True)
    engine.send_signal(signal.SIGKILL)
    served.until(lambda: served.run(run)["run_count"] == 2, lambda: served.run(run)["state"])
    assert stages
    assert not [process for process in stages if process.is_running()]
    served.until(made.exists, lambda: served.logs(run))
    assert served.ends(run)["name"] == "Completed"


def test_what_is_declared_later_is_served_and_a_schedule_fires(served):
    served.project.edit("params.yaml", "report:", "schedules:\n  soon: {interval_seconds: 3}\nreport:")
    pid = served.server().pid
    (served.project.folder / "kept").touch()  # so that nothing waits
    assert "(schedules: soon)" in served.project.run("mlml", "up")
    assert served.server().pid == pid
    deployment = served.deployment("reproduce")
    assert [schedule["slug"] for schedule in deployment["schedules"]] == ["soon"]

    def fired() -> list[str]:
        wanted = {"deployment_id": {"any_": [deployment["id"]]}, "state": {"type": {"any_": ["COMPLETED"]}}}
        found = served.ask("/flow_runs/filter", {"flow_runs": wanted})
        return [run["id"] for run in found if run["auto_scheduled"]]

    served.until(lambda: bool(fired()), lambda: served.deployment("reproduce"))

    served.project.edit("params.yaml", "schedules:\n  soon: {interval_seconds: 3}\nreport:", "report:")
    served.project.run("mlml", "up")
    assert served.deployment("reproduce")["schedules"] == []
    assert "Deployments: stopped" in served.project.run("mlml", "down")
    assert served.deployment("reproduce")["paused"]
