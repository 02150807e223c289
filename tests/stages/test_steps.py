import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from urllib.request import Request, urlopen

import prefect_store
import pytest

from stages import _servers

ROOT = Path(__file__).parents[2]

# passes bytes on; killed, it looks to the stage like a killed server, and the real one lives on for the next test
FORWARDER = """
    import asyncio, sys

    async def pump(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def accept(reader, writer):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

    async def main():
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(main())
"""

# every execution of a piece of work leaves a line in `ran`; `wait` lets the test act in the midst of the work
STAGE = """
    import logging, os, signal, sys, threading, time
    from pathlib import Path
    from stages import _servers, _steps
    from stages._flow_process import FlowProcess

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    folder, api_url = Path(sys.argv[1]), sys.argv[2]
    _servers.apply_settings(folder)

    def work(name, do=lambda: None):
        def run():
            assert threading.current_thread() is threading.main_thread()
            with (folder / "ran").open("a") as file:
                file.write(name + "\\n")
            logging.getLogger("mlml.train").info("working on %s", name)
            do()
            return name
        return run

    def wait():
        (folder / "waiting").touch()
        while not (folder / "go").exists():
            time.sleep(0.02)

    def fail():
        raise KeyError("the work's own error")

    def wait_and_fail():
        wait()
        fail()

    def flow(body):
        about = "pretext", "simclr {x}", api_url
        shown = {"stage": "pretext", "experiment": "simclr"}
        if sys.argv[3] == "here":
            result = _steps.run_flow(*about, body, shown)
        else:
            if sys.argv[3] == "fork":
                import prefect.flow_engine  # as the warm parent has
            steps = FlowProcess(fork=sys.argv[3] == "fork")
            try:
                steps.begin(*about, shown)
                with steps:
                    result = body(steps)
            finally:
                steps.close()
        print("RESULT", result, "prefect" in sys.modules, flush=True)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    environment = os.environ.pop("PREFECT_API_URL", None)
    try:
        prefect_store.seed(root)
        assert _servers.ensure_prefect(root) is not None
        yield root
    finally:
        _servers.stop(root)
        if environment is not None:
            os.environ["PREFECT_API_URL"] = environment


@pytest.fixture(scope="module")
def api(project):
    return _servers.ensure_prefect(project)


@pytest.fixture
def forwarder(api):
    command = [sys.executable, "-c", textwrap.dedent(FORWARDER), api.split(":")[2].split("/")[0]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.url = f"http://127.0.0.1:{process.stdout.readline().strip()}/api"
        yield process
        process.kill()


WHERE = pytest.mark.parametrize("where", ["beside", "fork", "here"])


def start(folder, url, body, where="beside"):
    code = textwrap.dedent(STAGE) + textwrap.dedent(body)
    command = [sys.executable, "-c", code, str(folder), url, where]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DVC_"))}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def end(process):
    said, complained = process.communicate(timeout=120)
    return process.returncode, said, complained


def ran(folder):
    return (folder / "ran").read_text().split("\n")[:-1]


def wait_for(condition, process=None):
    """Wait until the condition holds, as long as the process that is to bring it about lives."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def post(api, path, **query):
    request = Request(f"{api}{path}", json.dumps(query).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        return json.load(answer)


def last_run(api):
    """The newest flow run, and name -> state of its task runs, once these have arrived."""
    flow = post(api, "/flow_runs/filter", sort="EXPECTED_START_TIME_DESC", limit=1)[0]
    return flow, lambda: {
        task["name"]: task["state_name"]
        for task in post(api, "/task_runs/filter", flow_runs={"id": {"any_": [flow["id"]]}})
    }


@WHERE
def test_a_stage_is_one_flow_of_named_tasks_with_its_logs(api, tmp_path, where):
    body = """
        flow(lambda steps: [steps.run("load data", work("load data")), steps.run("train seed 0", work("train {}")),
                            logging.getLogger("stages.x").info("between"), steps.flow_run_id])
    """
    code, said, complained = end(start(tmp_path, api, body, where))
    assert code == 0, complained
    flow, tasks = last_run(api)
    # a stage does not wait for an import of Prefect
    assert f"RESULT ['load data', 'train {{}}', None, '{flow['id']}'] {where != 'beside'}" in said
    assert ran(tmp_path) == ["load data", "train {}"]
    assert (flow["name"], flow["state_name"]) == ("simclr {x}", "Completed")
    assert flow["parameters"] == {"stage": "pretext", "experiment": "simclr"}
    wait_for(lambda: tasks() == {"load data": "Completed", "train seed 0": "Completed"})

    logs = post(api, "/logs/filter", logs={"flow_run_id": {"any_": [flow["id"]]}})
    bound = {log["message"]: log["task_run_id"] is not None for log in logs if not log["name"].startswith("prefect")}
    assert bound == {"working on load data": True, "working on train {}": True, "between": False}
    # the console has the project's own lines and the address of the run, and not what Prefect says of itself
    console = [line.partition(" ")[2] for line in complained.splitlines()]
    page = f"Prefect flow run {api.removesuffix('/api')}/runs/flow-run/{flow['id']}"
    assert sorted(console) == sorted([page, "working on load data", "working on train {}", "between"])


@WHERE
def test_an_error_of_the_work_is_raised_unchanged_and_marked(api, tmp_path, where):
    body = """
        mine = []
        def remember(steps):
            try:
                steps.run("bad", work("bad", fail))
            except KeyError as error:
                mine.append(error)
                raise
        try:
            flow(remember)
        except KeyError as error:
            print("SAME", error is mine[0], error)
            raise
    """
    code, said, complained = end(start(tmp_path, api, body, where))
    assert code == 1
    assert 'SAME True "the work\'s own error"' in said
    assert ran(tmp_path) == ["bad"]
    assert complained.count("Traceback") == 1
    assert "site-packages" not in complained  # the engine's frames are cut out
    flow, tasks = last_run(api)
    assert flow["state_name"] == "Failed"
    assert "the work's own error" in flow["state"]["message"]
    wait_for(lambda: tasks() == {"bad": "Failed"})
    assert not list((tmp_path / ".mlml").rglob("storage/*"))


@pytest.mark.parametrize(
    ("kill", "where"),
    [("SIGTERM", "beside"), ("SIGINT", "beside"), ("SIGKILL", "beside"), ("SIGKILL", "fork"), ("SIGINT", "here")],
)
def test_a_signal_ends_the_stage_and_is_marked(api, tmp_path, kill, where):
    process = start(
        tmp_path, api, 'flow(lambda steps: [steps.flow_run_id, steps.run("a", work("train", wait))])', where
    )
    wait_for((tmp_path / "waiting").exists, process)
    process.send_signal(signal.Signals[kill])
    code, said, _ = end(process)
    assert code == -signal.Signals[kill]
    assert "RESULT" not in said
    assert ran(tmp_path) == ["train"]
    wait_for(lambda: last_run(api)[0]["state_name"] == "Crashed")
    flow, tasks = last_run(api)
    assert flow["name"] == "simclr {x}"
    wait_for(lambda: tasks() == {"a": "Crashed"})


@WHERE
def test_an_exit_of_the_work_is_kept(api, tmp_path, where):
    body = 'flow(lambda steps: steps.run("exit", work("exit", lambda: sys.exit(7))))'
    code, _, _ = end(start(tmp_path, api, body, where))
    assert code == 7
    assert ran(tmp_path) == ["exit"]


def test_the_death_of_the_process_beside_is_told_and_no_more(api, tmp_path):
    body = """
        def kill():
            os.kill(steps_[0]._process.pid, signal.SIGKILL)
            time.sleep(0.2)
        steps_ = []
        flow(lambda steps: (steps_.append(steps), steps.flow_run_id, steps.run("a", work("a", kill)),
                            steps.run("b", work("b"))))
    """
    code, said, complained = end(start(tmp_path, api, body))
    assert code == 0, complained
    assert "'a', 'b')" in said
    assert ran(tmp_path) == ["a", "b"]
    assert complained.rstrip().endswith(
        "Prefect: the process that tells it died; the page of this run stays incomplete"
    )


def assert_calm(complained, warnings=1):
    lines = complained.splitlines()
    assert sum("Prefect server" in line for line in lines) == warnings
    rest = [
        line
        for line in lines
        if not any(known in line for known in ("Prefect server", "Prefect flow run", "working on"))
    ]
    assert rest == []


def test_no_server_at_the_start(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/api"
        code, said, complained = end(start(tmp_path, url, 'flow(lambda steps: steps.run("a", work("a")))'))
    assert code == 0
    assert "RESULT a False" in said  # not even imported
    assert ran(tmp_path) == ["a"]
    assert_calm(complained)


def test_a_server_that_refuses_everything(tmp_path):
    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/api/health" else 500)
            self.end_headers()

        def do_POST(self):
            self.send_response(500)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        code, said, complained = end(start(tmp_path, url, 'flow(lambda steps: steps.run("a", work("a")))'))
        server.shutdown()
    assert code == 0, complained
    assert "RESULT a" in said
    assert ran(tmp_path) == ["a"]
    assert_calm(complained)


DEATHS = {
    "in a task": ('steps.run("a", work("a", wait)), time.sleep(1), steps.run("b", work("b"))', 0),
    "between tasks": ('steps.run("a", work("a")), work("-", wait)(), steps.run("b", work("b"))', 0),
    "in a task that fails": ('steps.run("a", work("a", wait_and_fail))', 1),
    "after the last task": ('steps.run("a", work("a")), work("-", wait)()', 0),
}


@pytest.mark.parametrize("moment", DEATHS)
@pytest.mark.parametrize("where", ["beside", "here"])
def test_a_server_that_dies(forwarder, tmp_path, moment, where):
    body, expected = DEATHS[moment]
    process = start(tmp_path, forwarder.url, f"flow(lambda steps: (steps.flow_run_id, {body}))", where)
    wait_for((tmp_path / "waiting").exists, process)
    forwarder.kill()
    forwarder.wait()
    (tmp_path / "go").touch()
    began = time.monotonic()
    code, said, complained = end(process)
    # Prefect's own retries would take more than a minute
    assert time.monotonic() - began < 50
    assert code == expected, complained
    assert sorted(ran(tmp_path)) == sorted(set(ran(tmp_path)))
    if expected == 0:
        assert "RESULT" in said
        assert_calm(complained)
    else:
        assert complained.count("Traceback") == 1
        assert complained.rstrip().endswith('KeyError: "the work\'s own error"')


def test_sigterm_after_the_server_died(forwarder, tmp_path):
    process = start(tmp_path, forwarder.url, 'flow(lambda steps: steps.run("train", work("train", wait)))')
    wait_for((tmp_path / "waiting").exists, process)
    forwarder.kill()
    forwarder.wait()
    process.terminate()
    assert end(process)[0] == -signal.SIGTERM


def test_the_real_server_killed(project, api, tmp_path):
    """The last test of the module, for it ends the server that the others share."""
    body = 'flow(lambda steps: (steps.flow_run_id, steps.run("a", work("a", wait)), steps.run("b", work("b"))))'
    process = start(tmp_path, api, body)
    wait_for((tmp_path / "waiting").exists, process)
    os.kill(_servers._alive(_servers._prefect(project)).pid, signal.SIGKILL)
    wait_for(lambda: _servers._alive(_servers._prefect(project)) is None)
    (tmp_path / "go").touch()
    code, said, complained = end(process)
    assert code == 0, complained
    assert "'a', 'b')" in said
    assert ran(tmp_path) == ["a", "b"]
    assert_calm(complained)
