"""The make targets of README, on the servers' side."""

import json
import urllib.request

import psutil


def test_help_lists_the_targets(project):
    printed = project.run("make", "help")
    for target in ("repro", "test", "check", "format", "lock", "up", "down"):
        assert f"{target}\t" in printed


def test_up_and_down(project):
    """The servers answer at the printed addresses, a second `up` starts no more, and `down` leaves no process."""
    environment = {key: value for key, value in project.environment.items() if key != "PREFECT_API_URL"}
    project.environment, before = environment, project.environment
    try:
        printed = project.run("make", "up")
        lines = [line for line in printed.splitlines() if line.startswith(("Prefect:", "MLflow:"))]
        addresses = dict(line.replace(" ", "").split(":", 1) for line in lines)
        assert set(addresses) == {"Prefect", "MLflow"}
        for address, path in ((addresses["Prefect"], "/api/health"), (addresses["MLflow"], "/health")):
            with urllib.request.urlopen(address + path) as answer:
                assert answer.status == 200
        records = [project.folder / ".mlml" / server / "server.json" for server in ("prefect", "mlflow")]
        pids = [json.loads(record.read_text())["pid"] for record in records]
        assert "Warm parent of stages started" in printed
        [lock] = (project.folder / ".mlml" / "warm").glob("*/lock")
        parent = int(lock.read_text().split()[0])
        again = project.run("make", "up")
        assert all(address in again for address in addresses.values())
        assert "started" not in again
    finally:
        stopped = project.run("make", "down")
        project.environment = before
    assert not psutil.pid_exists(parent)
    for pid in [*pids, parent]:
        assert f"stopped (pid {pid})" in stopped
    assert not list((project.folder / ".mlml").glob("*/server.json"))
