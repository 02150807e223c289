"""The warm parent and its client, with light modules in place of torch and the others; real stages: tests/pipeline."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from processes import alive

from stages import _warm

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 60

ACT = '"""Does what it is told."""\nimport sys\nexec(sys.argv[1])\n'

ABOUT = """
import json, logging, os, signal, sys
os.environ.pop("MLML_WARM_CLIENT", None)
umask = os.umask(0)
print(json.dumps({
    "argv": sys.argv, "name": __name__, "path": sys.path, "executable": sys.executable, "folder": os.getcwd(),
    "environment": dict(os.environ), "umask": umask, "read": sys.stdin.read(), "main": sys.modules["__main__"].__file__,
    "handlers": [str(signal.getsignal(n)) for n in (1, 2, 3, 13, 15, 17)], "logging": len(logging.getLogger().handlers),
    "descriptors": [os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in range(3)],
    "project": sorted(m for m in sys.modules if m.split(".")[0] in ("mlml", "stages") and m != "stages._warm"),
}))
print("error", file=sys.stderr)
"""

ENDED = (
    "from stages._life import end_with_dvc; end_with_dvc(); import time; print('begun', flush=True); time.sleep(120)"
)


class Tiny:
    """A project whose warm parent imports modules of the test, in a folder with a path too long for a socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / ("deep" * 30)
        (self.folder / "modules").mkdir(parents=True)
        shutil.copytree(ROOT / "stages", self.folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
        (self.folder / "stages" / "act.py").write_text(ACT)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "PREFECT_", "MLML_", "PYTEST_"))}
        self.environment = {**clean, "PYTHONPATH": str(self.folder / "modules"), "PYTHONDONTWRITEBYTECODE": "1"}
        self.imports({}, {})

    def imports(self, first: dict[str, str], later: dict[str, str]) -> None:
        """Have the parent import modules with this content."""
        text = (ROOT / "stages/_warm.py").read_text().replace('"/dev/kfd"', '"/dev/zero"')  # a GPU that all have
        for name, modules in (("MODULES", first), ("LATER", later)):
            text, count = re.subn(rf"^{name} = \(.*?^\)", f"{name} = {tuple(modules)}", text, flags=re.M | re.S)
            assert count == 1
        (self.folder / "stages/_warm.py").write_text(text)
        for name, content in {**first, **later}.items():
            (self.folder / "modules" / f"{name}.py").write_text(content)

    def command(self, code: str) -> list[str]:
        return [sys.executable, "-m", "stages", "act", code]

    def run(self, code: str, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(code),
            cwd=self.folder,
            env={**self.environment, **environment},
            input=given,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def log(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob(".mlml/warm/*/log"))

    def parent(self) -> psutil.Process | None:
        for lock in self.folder.glob(".mlml/warm/*/lock"):
            with contextlib.suppress(ValueError, IndexError, psutil.NoSuchProcess):  # not yet written, or gone
                process = psutil.Process(int(lock.read_text().split()[0]))
                if alive(process):
                    return process
        return None

    @contextlib.contextmanager
    def warm(self, wait: bool = True) -> Iterator[subprocess.Popen[str]]:
        """A process that holds a warm parent until its input ends."""
        program = "import signal, sys; from pathlib import Path; from stages._warm_start import warm\n"
        program += "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # as in a shell's background job
        program += "with warm(Path.cwd()): sys.stdin.read()"
        holder = subprocess.Popen(
            [sys.executable, "-c", program], cwd=self.folder, env=self.environment, stdin=subprocess.PIPE, text=True
        )
        try:
            if wait:
                wait_for(lambda: "ready after" in self.log() or "Traceback" in self.log(), "the parent")
                assert "ready after" in self.log(), self.log()
            yield holder
        finally:
            holder.communicate(timeout=LIMIT_SECONDS)


def connected(client: subprocess.Popen[str]) -> bool:
    """Whether the client's connection is in the parent's queue, or taken from it."""
    inodes = set()
    for descriptor in Path(f"/proc/{client.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    sockets = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return any(words[5] == "03" and words[6] in inodes for words in sockets)


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


@pytest.fixture
def tiny(tmp_path) -> Iterator[Tiny]:
    project = Tiny(tmp_path)
    yield project
    wait_for(lambda: project.parent() is None, "the end of the parent")


@pytest.fixture(scope="module")
def ready(tmp_path_factory) -> Iterator[Tiny]:
    """A project with a warm parent that is ready."""
    project = Tiny(tmp_path_factory.mktemp("ready"))
    project.imports({"numpy_like": "import numpy.random\n"}, {})
    with project.warm():
        yield project


def test_a_warm_stage_is_like_a_cold_one(ready):
    before = os.umask(0o37)  # which both inherit
    warm = ready.run(ABOUT, "input", MARK="a\udcff")
    assert ready.run("import os; print(os.getppid(), os.getsid(0) - os.getpid())").stdout == f"{ready.parent().pid} 0\n"
    cold = subprocess.run(
        [sys.executable, "-m", "stages.act", ABOUT],
        cwd=ready.folder,
        env={**ready.environment, "MARK": "a\udcff"},
        input="input",
        capture_output=True,
        text=True,
    )
    os.umask(before)
    assert warm.stderr == cold.stderr == "error\n"
    about = json.loads(warm.stdout)
    assert about == json.loads(cold.stdout)
    assert (about["read"], about["environment"]["MARK"]) == ("input", "a\udcff")


def test_random_numbers_differ_between_stages(ready):
    code = "import numpy, random, uuid; print(numpy.random.rand(), random.random(), uuid.uuid4())"
    one, other = ready.run(code).stdout.split(), ready.run(code).stdout.split()
    assert len(one) == 3
    assert all(a != b for a, b in zip(one, other, strict=True))


ENDS = {
    "pass": (0, ""),
    "print('kept in the buffer')": (0, ""),
    "raise SystemExit(3)": (3, ""),
    "raise SystemExit('a sentence')": (1, "a sentence\n"),
    "raise ValueError('wrong')": (1, "ValueError: wrong"),
    "import os; os._exit(7)": (7, ""),
    "import os; os.kill(os.getpid(), 9)": (-9, ""),
    "import os; os.kill(os.getpid(), 15)": (-15, ""),
    "raise KeyboardInterrupt": (-signal.SIGINT, "KeyboardInterrupt"),
    "import atexit; atexit.register(print, 'bye')": (0, ""),
}


@pytest.mark.parametrize("code", ENDS)
def test_the_client_ends_as_the_stage_does(ready, code):
    done = ready.run(code)
    assert done.returncode == ENDS[code][0]
    assert ENDS[code][1] in done.stderr
    assert done.stdout == {"print": "kept in the buffer\n", "import atexit": "bye\n"}.get(
        re.split(r"[(;]", code)[0], ""
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_stage(ready, number):
    code = (
        "import time\ntry:\n    print('begun', flush=True); time.sleep(99)\nexcept KeyboardInterrupt:\n    print('int')"
    )
    client = ready.start(*ready.command(code))
    assert client.stdout.readline() == "begun\n"
    client.send_signal(number)
    assert client.communicate(timeout=LIMIT_SECONDS)[0] == ("int\n" if number == signal.SIGINT else "")
    assert client.returncode == (0 if number == signal.SIGINT else -number)


PPID = "import os; print(os.getppid())"


def test_whatever_differs_starts_cold(ready):
    parent = str(ready.parent().pid)

    def is_warm(**environment: str) -> bool:
        done = ready.run(PPID, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip() == parent

    assert is_warm()
    assert is_warm(CUDA_VISIBLE_DEVICES="0", PREFECT_API_URL="http://127.0.0.1:9/api", DVC_STAGE_OF_ITS="x")
    assert is_warm(PREFECT_SERVER_ALLOW_EPHEMERAL_MODE="false")  # what a stage sets anyway
    assert not is_warm(OMP_NUM_THREADS="7")
    assert not is_warm(PREFECT_LOGGING_LEVEL="SECRET")
    assert not is_warm(NUMPY_MADVISE_HUGEPAGE="1")  # numpy reads it at import
    (ready.folder / "prefect.toml").write_text("x = 1")
    assert not is_warm()
    (ready.folder / "prefect.toml").unlink()
    limited = subprocess.run(
        ["sh", "-c", 'ulimit -n 99; exec "$0" "$@"', *ready.command("import resource; print(resource.getrlimit(7))")],
        cwd=ready.folder,
        env=ready.environment,
        capture_output=True,
        text=True,
    )
    assert limited.stdout == "(99, 99)\n"  # taken over
    assert is_warm()
    for name in ("PREFECT_LOGGING_LEVEL", "NUMPY_MADVISE_HUGEPAGE"):
        assert f"starts cold: the environment variable {name} differs" in ready.log()
    assert "SECRET" not in ready.log()


def test_an_edit_of_the_project_counts_at_once(ready):
    act = ready.folder / "stages/act.py"
    act.write_text("import os; print('edited', os.getppid())")
    assert ready.run("").stdout == f"edited {ready.parent().pid}\n"
    act.write_text(ACT)


def test_a_client_waits_while_the_parent_imports(tiny):
    tiny.imports(
        {"slow": f"import os, time\nwhile not os.path.exists({str(tiny.folder / 'go')!r}): time.sleep(0.01)"}, {}
    )
    with tiny.warm(wait=False):
        wait_for(lambda: list(tiny.folder.glob(".mlml/warm/*/socket")), "the socket")
        client = tiny.start(*tiny.command(PPID))
        wait_for(lambda: connected(client), "the connection")
        assert client.poll() is None
        (tiny.folder / "go").touch()
        assert client.communicate(timeout=LIMIT_SECONDS)[0] == f"{tiny.parent().pid}\n"


def test_a_parent_that_dies_while_it_imports_is_done_without(tiny):
    tiny.imports({"slow": "import time; time.sleep(120)"}, {})
    with tiny.warm(wait=False):
        wait_for(lambda: list(tiny.folder.glob(".mlml/warm/*/socket")), "the socket")
        client = tiny.start(*tiny.command(f"open('ran', 'a').write('x'); {PPID}"))
        wait_for(lambda: connected(client), "the connection")
        tiny.parent().kill()
        printed = client.communicate(timeout=LIMIT_SECONDS)
        assert printed == (f"{os.getpid()}\n", "")
    assert (tiny.folder / "ran").read_text() == "x"


FAKE_DVC = "import os, subprocess, sys; subprocess.run(sys.argv[1:], env={**os.environ, 'DVC_STAGE': 'act'})"


@pytest.mark.parametrize("victim", ["client", "client by hand", "dvc", "parent", "stage"])
def test_a_kill_of_one_ends_the_others(tiny, victim):
    (tiny.folder / "dvc").write_text(FAKE_DVC)
    code = f"import os; open('ran', 'a').write(f'{{os.getpid()}}\\n'); {ENDED}"
    with tiny.warm():
        parent = tiny.parent()
        dvc = [] if victim == "client by hand" else [sys.executable, "dvc"]
        top = tiny.start(*dvc, *tiny.command(code))
        assert top.stdout.readline() == "begun\n"
        stage, client = psutil.Process(int((tiny.folder / "ran").read_text())), psutil.Process(top.pid)
        if dvc:
            [client] = client.children()
        assert stage.ppid() == parent.pid
        {"client": client, "dvc": top, "parent": parent, "stage": stage}[victim.split()[0]].kill()
        wait_for(lambda: not alive(stage) and not alive(client), "the end of stage and client")
        error = top.communicate(timeout=LIMIT_SECONDS)[1]
        if victim == "parent":
            assert "the warm parent ended, and the stage with it" in error
        else:
            assert alive(parent)
            assert tiny.run(PPID).stdout.strip() == str(parent.pid)  # it serves on
    assert len((tiny.folder / "ran").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("module", "fault"),
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "1 threads"),
        ("gpu = open('/dev/zero')", "has opened a GPU"),
        ("import mlml_like, sys; sys.modules['mlml'] = mlml_like", "mlml has been imported"),
    ],
)
def test_a_parent_that_must_not_be_forked_ends(tiny, module, fault):
    tiny.imports({"bad": module, "mlml_like": ""}, {})
    with tiny.warm():
        assert tiny.run(PPID).stdout == f"{os.getpid()}\n"
        assert fault in tiny.log()
        wait_for(lambda: tiny.parent() is None, "the end of the parent")


def test_a_stage_may_end_while_the_parent_imports_more(tiny):
    def gate(name: str) -> str:
        wait = f"while not os.path.exists({str(tiny.folder / 'open')!r} + '{name}'): time.sleep(0.01)"
        return f"import os, time\nopen({str(tiny.folder / name)!r}, 'w')\n{wait}"

    tiny.imports({}, {"first": gate("first"), "second": gate("second")})
    with tiny.warm():
        wait_for((tiny.folder / "first").exists, "the first import")
        client = tiny.start(*tiny.command("import os; print(os.getpid(), flush=True); raise SystemExit(5)"))
        wait_for(lambda: connected(client), "the connection")
        (tiny.folder / "openfirst").touch()
        stage = psutil.Process(int(client.stdout.readline()))
        wait_for(lambda: not alive(stage), "the end of the stage")
        assert (tiny.folder / "second").exists()
        assert client.poll() is None
        (tiny.folder / "opensecond").touch()
        client.communicate(timeout=LIMIT_SECONDS)
        assert client.returncode == 5
        assert tiny.run("raise SystemExit(6)").returncode == 6


def test_one_parent_that_dies_with_its_owner_after_its_stages(tiny):
    with tiny.warm() as owner:
        parent = tiny.parent()
        second = "import os; from pathlib import Path; from stages._warm_start import start\n"
        second += "print(start(Path.cwd(), os.getpid()).wait())"
        printed = subprocess.run(
            [sys.executable, "-c", second],
            cwd=tiny.folder,
            env=tiny.environment,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout
        assert printed == "0\n"
        assert alive(parent)
        gate = tiny.folder / "go"
        code = f"import os, time; print('begun', flush=True)\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)"
        client = tiny.start(*tiny.command(code))
        assert client.stdout.readline() == "begun\n"
        owner.kill()
        wait_for(lambda: tiny.run(PPID).stdout == f"{os.getpid()}\n", "a cold start")
        assert alive(parent)
        gate.touch()
        client.communicate(timeout=LIMIT_SECONDS)
        assert client.returncode == 0
        wait_for(lambda: not alive(parent), "the end of the parent")


def test_up_and_down(tiny):
    ensure = "from pathlib import Path; from stages import _warm_start; _warm_start.ensure(Path.cwd())"
    stop = ensure.replace("ensure", "stop")

    def run(program: str) -> str:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, cwd=tiny.folder, env=tiny.environment, capture_output=True, text=True).stdout

    assert run(stop) == "Warm parent of stages: not running\n"
    assert "stopped (pid" in run(f"{ensure}; _warm_start.stop(Path.cwd())")  # also one that has not begun to import
    assert "started" in run(ensure)
    wait_for(lambda: "ready after" in tiny.log(), "the parent")
    parent = tiny.parent()
    assert run(ensure) == ""
    assert tiny.run(PPID).stdout == f"{parent.pid}\n"
    assert run(stop) == f"Warm parent of stages: stopped (pid {parent.pid})\n"
    assert not alive(parent)
    assert tiny.run(PPID).stdout == f"{os.getpid()}\n"
    with tiny.warm():
        assert run(stop) == "Warm parent of stages: not running\n"  # that one is its owner's


def test_a_stranger_on_the_socket_does_no_harm(ready):
    folder = _warm.place(ready.folder, ready.environment)
    for content in (b"", b"\0\0\0\5", b"nonsense that is no request"):
        with socket.socket(socket.AF_UNIX) as stranger, _warm.address(folder) as path:
            stranger.connect(path)
            stranger.sendall(content)
    assert ready.run(PPID).stdout == f"{ready.parent().pid}\n"


def test_an_unknown_stage_is_named_with_those_there_are(ready):
    done = subprocess.run(
        [sys.executable, "-m", "stages", "pretxt"],
        cwd=ready.folder,
        env=ready.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "'pretxt' is no stage; there are act, check, composed, evaluation" in done.stderr


def test_the_client_imports_nothing_heavy():
    """It runs before every stage, also where the stage is forked."""

    def loaded(imports: str) -> set[str]:
        program = f"import sys; {imports}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
        return {name.split(".")[0] for name in done.stdout.split()}

    own = loaded("import stages.__main__") - loaded("pass")  # what the interpreter brings along is not ours
    assert own - set(sys.stdlib_module_names) == {"stages"}
