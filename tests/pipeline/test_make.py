"""The make targets of README, on the servers' side."""

import json
import urllib.request
from typing import Any

import psutil
from processes import alive


def test_help_lists_the_targets(project):
    printed = project.run("make", "help")
    for target in ("repro", "test", "check", "format", "lock", "up", "down"):
        assert f"{target}\t" in printed


SERVERS = ("prefect", "mlflow", "dashboard")


def read(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.status == 200
        return answer.read()


def test_up_and_down(project):
    """The servers answer at the printed addresses, a second `up` starts no more, and `down` leaves no process."""
    environment = {key: value for key, value in project.environment.items() if key != "PREFECT_API_URL"}
    project.environment, before = environment, project.environment
    state = project.folder / ".mlml"
    try:
        printed = project.run("make", "up", DVC_STAGE="pretext@simclr")
        lines = [line for line in printed.splitlines() if line.startswith(("Prefect:", "MLflow:", "Optuna:"))]
        addresses = dict(line.replace(" ", "").split(":", 1) for line in lines)
        assert set(addresses) == {"Prefect", "MLflow", "Optuna"}
        assert read(addresses["Prefect"] + "/api/health")
        assert json.loads(read(addresses["Prefect"] + "/ui-settings"))["api_url"] == addresses["Prefect"] + "/api"
        assert read(addresses["MLflow"] + "/health")
        assert json.loads(read(addresses["Optuna"] + "/api/studies")) == {"study_summaries": []}
        pids = [json.loads((state / server / "server.json").read_text())["pid"] for server in SERVERS]
        families = [[psutil.Process(pid), *psutil.Process(pid).children(recursive=True)] for pid in pids]
        assert len(families[1]) <= 3  # job execution would be ten processes
        served = families[0][0].environ()
        assert "DVC_STAGE" not in served
        assert served["PREFECT_HOME"] == str(state / "prefect")
        assert (state / "prefect" / "prefect.db").exists()
        assert (state / "mlflow.db").exists()
        assert "Warm parent of stages started" in printed
        [lock] = (state / "warm").glob("*/lock")
        families.append([psutil.Process(int(lock.read_text().split()[0]))])
        again = project.run("make", "up", DVC_STAGE="pretext@simclr")
        assert all(address in again for address in addresses.values())
        assert "started" not in again
    finally:
        stopped = project.run("make", "down")
        project.environment = before
    for family in families:
        assert f"stopped (pid {family[0].pid})" in stopped
        assert not [process for process in family if alive(process)]
    assert not list(state.glob("*/server.json"))
