"""The warm parent: imports once what every stage needs, and forks each stage that a client asks for.

Run by path, `python -P stages/_warm.py`, so that no module of the project is ever imported here: a fork imports the
project as it lies there at that moment. `stages.__main__` is the client; `stages._warm_start` starts and ends this.
Little is imported at the top, and nothing that is not Python's own: the client imports this file too, at every stage.

Over a unix socket, one connection for each stage:

    client -> fork    a length, JSON, and with it the client's standard input, output and error
    fork -> client    READY and its process id; or DECLINED, when anything differs from what was imported here
    client -> fork    GO: from now on the stage is the fork's, and its client can only report how it ends
    parent -> client  ENDED and the fork's wait status

Parent and fork both hold the connection: a client that sees its end without ENDED knows that both are gone.
"""

import array
import atexit
import contextlib
import fcntl
import gc
import hashlib
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TextIO

READY, DECLINED, GO, ENDED = b"R", b"D", b"G", b"E"
LENGTH, ANSWER = struct.Struct("!I"), struct.Struct("!ci")

REQUEST_SECONDS = 60.0
"""How long a fork waits for a client that stops in the middle of its request."""

CLIENT = "MLML_WARM_CLIENT"
"""Set here alone, for a forked stage: the process ids of its client and of the parent."""

PROJECT = ("mlml", "stages", "pipelines")

MODULES = (
    *("torch", "torch.utils._foreach_utils", "torch.utils.serialization", "safetensors.torch", "numpy", "jaxtyping"),
    *("psutil", "pydantic", "pydantic.v1", "ruamel.yaml", "tqdm", "prefect.main", "prefect.flow_engine"),
    *("prefect.task_engine", "prefect.events.worker", "prefect.utilities.visualization", "fastapi.encoders"),
    *("anyio._backends._asyncio", "dvc.repo", "dvc.repo.artifacts", "dvc.repo.datasets", "dvc.repo.metrics"),
    *("dvc.repo.params", "dvc.repo.plots", "dvc.repo.stage", "dvc.cachemgr", "dvc.data_cloud", "dvc.dirs", "dvc.lock"),
    *("dvc.scm", "dvc.utils.strictyaml", "dvc_data.hashfile.db.local", "flufl.lock", "dulwich.ignore"),
    *("dulwich.worktree", "configobj", "fsspec.implementations.memory", "importlib_metadata._adapters", "pyparsing"),
    *("email.contentmanager", "mlflow"),
    "mlflow.store.tracking.sqlalchemy_store",
)
"""What every stage imports that is not the project's, by what stages hold when they end."""

LATER = (
    *("torch._dynamo", "pandas", "sklearn.datasets", "matplotlib.figure", "matplotlib.backends.backend_agg"),
    *("PIL.PngImagePlugin", "jinja2", "optuna"),
)
"""What some stages import, in the order of how many; imported here while no client waits."""

NATIVE = (
    *("ARROW_", "ATEN_", "BLIS_", "CUBLAS_", "CUDA_", "CUDNN_", "GLIBC_TUNABLES", "GOMP_", "GOTO_", "KINETO_", "KMP_"),
    *("LANG", "LC_", "LD_", "MALLOC_", "MIMALLOC_", "MKL_", "NCCL_", "NUMEXPR_", "NVIDIA_", "OMP_", "OPENBLAS_"),
    *("PYTHON", "PYTORCH_", "TORCH", "TZ", "VECLIB_"),
)
"""Beginnings of variables that Python and compiled libraries read when they are loaded, where `_Recorder` sees none."""

LISTED = ("FSSPEC_", "PREFECT_", "TQDM_")
"""Beginnings of variables that libraries pick out of all of them at import."""

FREE = {
    "CUDA_VISIBLE_DEVICES": "read when CUDA begins, after the fork",
    "JE_ARROW_MALLOC_CONF": "set for this process",
    "PATH": "searched when a program is called",
    "PREFECT_API_URL": "read again by the fork",
}
"""Variables that may differ although they are read at import, and why."""

DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri")
"""Beginnings of files that a process has open once it has begun CUDA or ROCm, which do not survive a fork."""

CONFIGURATION = (".env", "matplotlibrc", "prefect.toml", "pyproject.toml")
"""Files of the working directory that libraries read at import."""


def place(root: Path, environment: Mapping[str, str]) -> Path:
    """Return the folder of the parent that serves this environment.

    What compiled libraries read cannot be changed later: `mlml repro`, which limits threads, and a bare `dvc repro`
    need a parent each.
    """
    native = sorted((name, value) for name, value in environment.items() if _is_native(name))
    return root.resolve() / ".mlml" / "warm" / hashlib.sha256(json.dumps(native).encode()).hexdigest()[:8]


@contextlib.contextmanager
def address(folder: Path) -> Iterator[str]:
    """Address of the socket in a folder, by a descriptor: a socket's path may not be longer than 107 bytes."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/socket"
    finally:
        os.close(descriptor)


def facts() -> dict[str, Any]:
    """Return what must be the same in client and parent, in types of JSON."""
    flags = [getattr(sys.flags, name) for name in ("optimize", "dev_mode", "utf8_mode", "no_site", "no_user_site")]
    return {
        "the code of stages/_warm.py": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "the interpreter": [os.path.realpath(sys.executable), os.path.realpath(sys.prefix), sys.version, flags],
        "the set of processors": sorted(os.sched_getaffinity(0)),
        "the priority": os.getpriority(os.PRIO_PROCESS, 0),
        "the container": [os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "net", "pid", "user")],
        "the user": [os.getuid(), os.getgid()],
    }


def run(group: str, arguments: list[str]) -> None:
    """Run a stage's module as `python -m stages.GROUP ARGUMENTS` does."""
    sys.argv = [f"stages.{group}", *arguments]
    runpy.run_module(f"stages.{group}", run_name="__main__", alter_sys=True)


class Imports:
    """The modules imported here, and what they were imported under.

    Args:
        defaults: what stages set where the environment says nothing.
    """

    def __init__(self, defaults: dict[str, str]) -> None:
        self.names: set[str] = set()  # of the variables that the modules have read
        self.defaults, self.environment, self.facts = defaults, dict(os.environ), facts()
        self.versions, self.configuration = _versions(), _configuration(Path.cwd(), self.environment)

    def add(self, *modules: str) -> None:
        """Import modules, so that forks share them; one that is not there is left to the stages that need it."""
        gc.disable()  # looking for garbage in a million new objects takes a tenth of the time, and there is none
        os.environ.__class__ = _Recorder
        try:
            for name in modules:
                try:
                    importlib.import_module(name)
                except ImportError as error:
                    _log(f"{name} cannot be imported ({error}); stages that need it will say so")
        finally:
            os.environ.__class__ = os._Environ
        self.names |= _Recorder.names
        gc.enable()
        gc.freeze()  # or a collection in a fork would write to, and so copy, every page
        pid = os.fork()  # OpenBLAS ends its threads at a fork, and begins them again when they are used
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    def difference(self, asked: Mapping[str, Any]) -> str | None:
        """Return the first thing that a cold start would find otherwise; values are not said, some are secret."""
        for what, value in self.facts.items():
            if asked["facts"].get(what) != value:
                return f"{what} differs"
        ours, theirs = {**self.defaults, **self.environment}, {**self.defaults, **asked["environment"]}
        watched = {name for name in {*ours, *theirs} if _is_native(name) or name.upper().startswith(LISTED)}
        for name in sorted((watched | self.names) - set(FREE)):
            if ours.get(name) != theirs.get(name):
                return f"the environment variable {name} differs"
        if _configuration(Path(asked["folder"]), theirs) != self.configuration:
            return f"one of {', '.join(CONFIGURATION)} or of Prefect's own files differs"
        if _versions() != self.versions:
            return "the installed packages have changed"
        return None


class _Recorder(os._Environ):  # type: ignore[type-arg]
    """os.environ that notes which variables are read; going through all of them is not reading any."""

    names: set[str] = set()  # noqa: RUF012

    class _Seen(str):
        __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if type(key) is str:
            _Recorder.names.add(key)
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[Any]:
        return map(_Recorder._Seen, super().__iter__())


class Parent:
    """Accepts clients, forks, and reports how each fork ended; one thread, one loop."""

    def __init__(self, listener: socket.socket, owner: int | None, private: list[int], imports: Imports) -> None:
        self._imports, self._listener, self._owner = imports, listener, owner
        self._later = list(LATER)
        self._stages: dict[int, tuple[int, socket.socket]] = {}  # by descriptor of the process
        self._woken, waking = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._private = [*private, self._woken, waking]
        signal.set_wakeup_fd(waking)
        signal.signal(signal.SIGTERM, lambda *_: None)
        self._poll = select.poll()
        for descriptor in (listener.fileno(), self._woken, *([owner] if owner is not None else [])):
            self._poll.register(descriptor, select.POLLIN)

    def serve(self) -> Callable[[], NoReturn] | None:
        """Serve until SIGTERM or the end of the owner, and then until the last stage has ended.

        Returns:
            In a fork, the stage to run. In the parent, at its end, None.
        """
        while self._listener.fileno() >= 0 or self._stages:
            ready = self._poll.poll(0 if self._later else None)
            if not ready:
                self._imports.add(self._later.pop(0))
                if not self._later:
                    _log("has imported what only some stages need, too")
            for descriptor, _ in ready:
                if descriptor in self._stages:
                    self._report(descriptor)
                elif descriptor in (self._woken, self._owner):
                    self._poll.unregister(descriptor)
                    self._close()
                elif descriptor == self._listener.fileno():
                    stage = self._accept()
                    if stage is not None:
                        return stage
        return None

    def _accept(self) -> Callable[[], NoReturn] | None:
        connection, _ = self._listener.accept()
        fault = unfit()
        if fault is not None:
            _log(f"ends: {fault}")
            connection.close()
            self._close()
            return None
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            _log(f"cannot fork: {error}")
            connection.close()
            return None
        if pid == 0:
            self._forget()
            return lambda: _become(connection, parent, self._imports)
        descriptor = os.pidfd_open(pid)
        self._stages[descriptor] = pid, connection
        self._poll.register(descriptor, select.POLLIN)
        return None

    def _report(self, descriptor: int) -> None:
        pid, connection = self._stages.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        with connection, contextlib.suppress(OSError):
            connection.send(ANSWER.pack(ENDED, status), socket.MSG_DONTWAIT)

    def _close(self) -> None:
        """Take no more clients; those that wait start cold."""
        if self._listener.fileno() >= 0:
            self._poll.unregister(self._listener)
            self._listener.close()

    def _forget(self) -> None:
        """Let go, in a fork, of what is the parent's: held open, it would hide the parent's or another fork's end."""
        signal.set_wakeup_fd(-1)
        self._listener.close()
        for _, connection in self._stages.values():
            connection.close()
        for descriptor in (*self._private, *self._stages, *([self._owner] if self._owner is not None else [])):
            os.close(descriptor)


def unfit() -> str | None:
    """Return why this process must not be forked, if so: a fork has no other thread, and no device."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        return f"an imported library runs {threads - 1} threads"
    opened = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            opened.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    if any(path.startswith(DEVICES) for path in opened):
        return "an imported library has opened a GPU"
    ours = sorted(name for name in sys.modules if name.split(".")[0] in PROJECT)
    return f"{ours[0]} has been imported" if ours else None


def _become(connection: socket.socket, parent: int, imports: Imports) -> NoReturn:
    """Be the stage that the client asks for, in a fork; or decline."""
    try:
        client, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        connection.settimeout(REQUEST_SECONDS)
        asked, streams = _receive(connection)
        difference = "the user differs" if user != os.getuid() else imports.difference(asked)
        if difference is None:
            difference = _take_over(asked, streams)
        if difference is not None:
            _log(f"{asked['group']} {' '.join(asked['arguments'])} starts cold: {difference}")
            connection.sendall(ANSWER.pack(DECLINED, 0))
            os._exit(0)
        connection.sendall(ANSWER.pack(READY, os.getpid()))
        if connection.recv(1) != GO:
            os._exit(0)
    except (OSError, ValueError):
        os._exit(0)  # the client has gone, starts cold, or is none: nothing has begun
    connection.settimeout(None)
    os.register_at_fork(after_in_child=connection.close)  # what the stage forks may outlive it
    os.environ[CLIENT] = f"{client} {parent}"
    _as_a_new_process(streams, imports)
    _to_the_end(lambda: run(asked["group"], asked["arguments"]))


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the request, and the client's standard streams."""
    space = array.array("i", [0, 0, 0])
    head, ancillary, _, _ = connection.recvmsg(LENGTH.size, socket.CMSG_SPACE(len(space) * space.itemsize))
    streams = array.array("i")
    for _, _, data in ancillary:
        streams.frombytes(data[: len(space) * space.itemsize])
    if len(head) != LENGTH.size or len(streams) != 3:
        raise OSError("not a request")
    content = b""
    (length,) = LENGTH.unpack(head)
    while len(content) < length:
        part = connection.recv(length - len(content))
        if not part:
            raise OSError("the client has gone")
        content += part
    return json.loads(content), list(streams)


def _take_over(asked: Mapping[str, Any], streams: list[int]) -> str | None:
    """Take what a process inherits from whoever starts it; returns what cannot be taken."""
    for number, limit in asked["limits"].items():
        try:
            resource.setrlimit(int(number), tuple(limit))
        except (OSError, ValueError):
            return "a limit of resources is lower here"
    try:
        os.chdir(asked["folder"])
    except OSError:
        return "the working directory cannot be entered"
    os.umask(asked["umask"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[:], sys.executable = asked["path"], asked["executable"]
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        ours = signal.getsignal(number)
        if number in asked["ignored"]:
            signal.signal(number, signal.SIG_IGN)
        elif number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        elif ours is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    return None


def _as_a_new_process(streams: list[int], imports: Imports) -> None:
    """Be to all libraries as if they had just been imported."""
    os.setsid()
    for target, descriptor in enumerate(streams):
        os.dup2(descriptor, target)
        os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    Path("/proc/self/comm").write_text(" ".join(["stage", os.environ.get("DVC_STAGE", "")])[:15])
    sys.modules["logging"].getLogger().handlers.clear()
    importlib.invalidate_caches()
    # Python's own generator is seeded anew at each fork, and torch's begins with a constant in every process
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    server = "PREFECT_API_URL"
    if "prefect.context" in sys.modules and os.environ.get(server) != imports.environment.get(server):
        sys.modules["prefect.context"].refresh_global_settings_context()


def _to_the_end(work: Callable[[], None]) -> NoReturn:
    """Run `work` and end as the interpreter would, without taking every module apart."""
    code, interrupted = 0, False
    try:
        work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code == 1 and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code, interrupted = 1, isinstance(error, KeyboardInterrupt)
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


def _versions() -> list[tuple[str, int]]:
    """Return what is installed, by the folders that installers write anew."""
    found = []
    for folder in sys.path:
        if folder.endswith("-packages"):
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                known = (entry for entry in entries if entry.name.endswith((".dist-info", ".egg-link", ".pth")))
                found += [(entry.path, entry.stat().st_mtime_ns) for entry in known]
    return sorted(found)


def _configuration(folder: Path, environment: Mapping[str, str]) -> list[str]:
    prefect = Path(environment.get("PREFECT_HOME", folder))
    files = [*(folder / name for name in CONFIGURATION), prefect / "profiles.toml", prefect / "logging.yml"]
    return [hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for file in files]


def _is_native(name: str) -> bool:
    return name.startswith(NATIVE) and name not in FREE


def _log(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", flush=True)


def _locked(file: TextIO) -> bool:
    """Lock the file; in a few tries, for who only asks holds the lock for a moment."""
    for _ in range(10):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.05)
    return False


def main() -> None:
    """Be the parent: `_warm.py FOLDER OWNER DEFAULTS`; its log is standard output."""
    folder, owner, defaults = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    lock = (folder / "lock").open("a+")
    if not _locked(lock):
        return  # there is one
    if owner and os.getppid() != owner:
        return
    watched = os.pidfd_open(owner) if owner else None
    with contextlib.suppress(OSError):  # by hand, at a terminal
        os.truncate(1, 0)
    lock.truncate(0)
    lock.write(f"{os.getpid()} {owner}")
    lock.flush()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    (folder / "socket").unlink(missing_ok=True)
    with address(folder) as path:
        listener.bind(path)
    listener.listen(128)  # from now on clients wait: they would have to import the same
    began = time.monotonic()
    import logging

    console = logging.NullHandler()
    console.setFormatter(logging.Formatter())
    logging.getLogger().addHandler(console)  # Prefect brings a console to a process that has none of its own
    imports = Imports(defaults)
    imports.add(*MODULES)
    _log(f"ready after {time.monotonic() - began:.1f} s")
    stage = Parent(listener, watched, [lock.fileno()], imports).serve()
    if stage is not None:
        stage()
    (folder / "socket").unlink(missing_ok=True)
    os._exit(0)  # there is nothing to take apart


if __name__ == "__main__":
    main()
