import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from stages import _servers

ROOT = Path(__file__).parents[2]

# a server with the command line of the real ones, in a tenth of a second; each start leaves a line in `starts`
STAND_IN = """
    import argparse, http.server, os, pathlib, subprocess, sys, time
    parser = argparse.ArgumentParser()
    parser.add_argument("--host"), parser.add_argument("--port", type=int)
    options = parser.parse_args()
    with open("starts", "a") as file:
        file.write(f"{os.getpid()}\\n")
    if pathlib.Path("taken").exists():
        pathlib.Path("taken").unlink()
        sys.exit(f"Port {options.port} is already in use.")
    if pathlib.Path("broken").exists():
        sys.exit("ImportError: broken")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    while pathlib.Path("slow").exists():
        time.sleep(0.02)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200), self.end_headers()

    http.server.ThreadingHTTPServer((options.host, options.port), Handler).serve_forever()
"""

CALLER = """
    import sys
    from pathlib import Path
    from stages import _servers
    folder = Path(sys.argv[1])
    environment = {"PYTHONPATH": str(folder.parent)}
    server = _servers._Server("Stand-in", folder, ("stand_in",), "/health", "/api", environment)
    print("URL", _servers._ensure(server))
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    (tmp_path / "stand_in.py").write_text(textwrap.dedent(STAND_IN))
    monkeypatch.setattr(_servers, "GRACE_SECONDS", 5.0)
    made = _servers._Server(
        "Stand-in", tmp_path / "home", ("stand_in",), "/health", "/api", {"PYTHONPATH": str(tmp_path)}
    )
    made.folder.mkdir()
    yield made
    for pid in starts(made):
        _servers._end(pid)


def starts(server):
    file = server.folder / "starts"
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def caller(server, **options):
    command = [sys.executable, "-c", textwrap.dedent(CALLER), str(server.folder)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, **options)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_settings_of_the_user_win_and_no_proxy_is_extended(tmp_path):
    chosen = _servers.settings(tmp_path, {"DO_NOT_TRACK": "0", "NO_PROXY": "intranet, localhost", "no_proxy": ".org"})
    assert chosen["DO_NOT_TRACK"] == "0"
    assert chosen["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert chosen["PREFECT_HOME"] == str(tmp_path / ".mlml" / "prefect")
    assert chosen["NO_PROXY"] == chosen["no_proxy"] == "intranet,localhost,.org,127.0.0.1"


def test_settings_are_known_to_prefect(tmp_path):
    code = "from prefect.settings import Settings; print(*Settings().to_environment_variables(include_aliases=True))"
    known = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout.split()
    # formatters are entries of Prefect's logging.yml, not settings
    mine = {
        name for name in _servers.settings(tmp_path, {}) if name.startswith("PREFECT_") and "FORMATTERS" not in name
    }
    assert mine - set(known) == set()


def test_processes_at_once_start_one_server(server):
    callers = [caller(server) for _ in range(6)]
    said = [process.communicate(timeout=60)[0] for process in callers]
    record = _servers._alive(server)
    assert starts(server) == [record.pid]
    assert sum("Stand-in started" in text for text in said) == 1
    assert {text.split("URL ")[1] for text in said} == {f"http://127.0.0.1:{record.port}/api\n"}
    # nothing of the caller is held: its pipe above ended, and the server is in a session of its own
    assert os.getsid(record.pid) == record.pid


def test_a_server_outlives_the_kill_of_its_starter_and_is_found_again(server):
    (server.folder / "slow").touch()
    first = caller(server, start_new_session=True)
    wait_for(lambda: starts(server))
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=30)
    second = caller(server)
    (server.folder / "slow").unlink()
    assert "URL http://127.0.0.1" in second.communicate(timeout=60)[0]
    assert len(starts(server)) == 1


@pytest.mark.parametrize("kind", ["dead", "recycled", "stranger", "garbage"])
def test_a_stale_record_is_ignored(server, kind):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    alike = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "stand_in", "1"])
    me, twin = psutil.Process(), psutil.Process(alike.pid)
    record = {
        "dead": _servers._Record(gone.pid, 1, 0.0),
        "recycled": _servers._Record(twin.pid, 1, twin.create_time() - 60),
        "stranger": _servers._Record(me.pid, 1, me.create_time()),
    }.get(kind)
    try:
        (server.folder / "server.json").write_text(json.dumps(asdict(record)) if record else "{")
        assert _servers._alive(server) is None
        assert _servers._ensure(server).startswith("http://127.0.0.1:")
        assert len(starts(server)) == 1
    finally:
        alike.kill()
        alike.wait()


def test_a_port_taken_meanwhile_costs_a_second_start(server):
    (server.folder / "taken").touch()
    assert _servers._ensure(server) is not None
    assert len(starts(server)) == 2


def test_a_server_that_cannot_start_is_one_sentence(server, capfd):
    (server.folder / "broken").touch()
    assert _servers._ensure(server) is None
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert f"see {server.folder / 'server.log'}" in said.err
    assert len(starts(server)) == 1


def test_a_server_that_hangs_is_not_waited_for(server, monkeypatch, capfd):
    _servers._ensure(server)
    os.kill(starts(server)[0], signal.SIGSTOP)
    monkeypatch.setattr(_servers, "START_SECONDS", 0.0)
    try:
        assert _servers._ensure(server) is None
    finally:
        os.kill(starts(server)[0], signal.SIGCONT)
    assert "does not answer" in capfd.readouterr().err


def test_stop_ends_the_family_and_nobody_else(server, tmp_path, monkeypatch, capsys):
    _servers._ensure(server)
    monkeypatch.setattr(_servers, "_prefect", lambda root: server)
    family = [psutil.Process(starts(server)[0]), *psutil.Process(starts(server)[0]).children()]
    assert len(family) == 2
    _servers.stop(tmp_path)
    assert not any(_servers._runs(process) for process in family)
    assert not (server.folder / "server.json").exists()
    assert f"stopped (pid {family[0].pid})" in capsys.readouterr().out

    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        record = _servers._Record(stranger.pid, 1, psutil.Process(stranger.pid).create_time())
        (server.folder / "server.json").write_text(json.dumps(asdict(record)))
        _servers.stop(tmp_path)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_set_api_url_is_used_and_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    assert _servers.ensure_prefect(tmp_path) == "http://elsewhere/api"
    assert _servers.start_mlflow(tmp_path, "https://elsewhere") == "https://elsewhere"
    assert list(tmp_path.iterdir()) == []
