"""The project's own Prefect, MLflow and Optuna servers: started once, shared by all stages, stopped by process id.

A server is known by `server.json` (pid, port, start time) in its folder under `.mlml/`. The file alone proves nothing:
the process must be alive, have that start time and that command line, and answer. None of the three is imported here.
"""

import fcntl
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import psutil

LOOPBACK = ("127.0.0.1", "localhost")
START_SECONDS = 90.0
GRACE_SECONDS = 10.0
FAMILY_SECONDS = 45.0
"""For a process that ends its descendants: a stage has half a minute to write its checkpoint."""

STUDIES = "MLML_OPTUNA_STORAGE"
"""Environment variable with the database that searches keep their studies in; unset: a journal each."""

_SETTINGS = {
    "DO_NOT_TRACK": "true",  # the word: MLflow ignores 1
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default tries for minutes; points wait in the local file instead
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes that only looking does not need
    "PREFECT_API_REQUEST_TIMEOUT": "15",
    "PREFECT_CLIENT_MAX_RETRIES": "1",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "mlml,stages,pipelines",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FORMAT": "%(asctime)s %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s %(flow_run_name)s: %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s %(task_run_name)s: %(message)s",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # 7 to 13 s for each process
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "10",  # a run that waits for another asks this often
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}

# of the process that happens to start a server, and wrong for everyone else
_PRIVATE_PREFIXES = ("DVC_", "PREFECT__", "PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")


@dataclass(frozen=True)
class _Server:
    """What one of the servers is.

    Attributes:
        title: its name in sentences.
        folder: where its `server.json`, `server.log` and lock lie.
        arguments: of `python -m`, without host and port.
        health: path that answers 200 once the server can be used.
        api: path of what clients use.
        environment: of its process.
        workspace: its working directory, and what it imports the project's code from; None for others' code only.
    """

    title: str
    folder: Path
    arguments: tuple[str, ...]
    health: str
    api: str
    environment: Mapping[str, str]
    workspace: Path | None = None


@dataclass(frozen=True)
class _Record:
    """Content of `server.json`; `started` is the process's start, in seconds of the epoch."""

    pid: int
    port: int
    started: float


def settings(root: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return every environment variable that the project sets for Prefect, MLflow and DVC.

    What the user has set stays as it is; NO_PROXY alone is extended, because behind a dead proxy the event stream
    to a server on this machine hangs for two minutes.
    """
    chosen = {**_SETTINGS, "PREFECT_HOME": str(root.resolve() / ".mlml" / "prefect")}
    chosen = {name: environment.get(name, value) for name, value in chosen.items()}
    hosts = [host.strip() for name in ("NO_PROXY", "no_proxy") for host in environment.get(name, "").split(",")]
    no_proxy = ",".join(dict.fromkeys([*filter(None, hosts), *LOOPBACK]))
    return {**chosen, "NO_PROXY": no_proxy, "no_proxy": no_proxy}


def apply_settings(root: Path) -> None:
    """Put `settings(root)` into this process's environment; to be called before Prefect or MLflow is imported."""
    os.environ.update(settings(root))
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes no parents, and warns


def ensure_prefect(root: Path) -> str | None:
    """Return the API URL of the Prefect server to use, starting the project's own if there is none.

    Any number of processes may call this at once: one server is started.

    Returns:
        PREFECT_API_URL where the user set it, else the URL of the project's server; None, after one printed
        sentence, if it cannot be started.
    """
    return os.environ.get("PREFECT_API_URL") or _ensure(_prefect(root))


def start_mlflow(root: Path, tracking_uri: str | None = None) -> str | None:
    """Return the URL of an MLflow server to look at the runs with, starting the project's own if there is none.

    Args:
        root: the project.
        tracking_uri: the store that runs are written to; None means MLFLOW_TRACKING_URI, else the project's sqlite
            file. An http(s) URL is a server already, and returned.
    """
    from mlml.tracking import store
    from mlml.tracking.run import TrackingError

    uri = tracking_uri or store.tracking_uri(root)
    if _is_server(uri):
        return uri
    server = _mlflow(root, uri)
    try:
        if _alive(server) is None:
            # a stage may make the tables at this moment, and two that do break the file for good
            store.prepare_store(uri)
    except TrackingError as error:
        print(f"MLflow server not started: {error}", file=sys.stderr, flush=True)
        return None
    return _ensure(server)


def mlflow_url(root: Path) -> str:
    """Return the address at which MLflow shows the runs, or will once `make up` has started it there."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if _is_server(uri):
        return uri
    server = _mlflow(root, None)
    server.folder.mkdir(parents=True, exist_ok=True)
    with _locked(server.folder):
        return f"http://{LOOPBACK[0]}:{_port(server)}"


def start_dashboard(root: Path) -> str | None:
    """Return the URL of Optuna's dashboard over the searches of the project, starting it if there is none.

    One that shows another storage than the environment names now is replaced.
    """
    server = _dashboard(root)
    known = _alive(server)
    if known is not None and _variable(known.pid, STUDIES) != os.environ.get(STUDIES):
        with _locked(server.folder):
            _end(known.pid)
    return _ensure(server)


def is_own(root: Path, api_url: str) -> bool:
    """Return whether this is the API of the project's own Prefect server, which no other project uses."""
    record = _alive(_prefect(root))
    return record is not None and api_url.rstrip("/") == _url(record) + _prefect(root).api


def serve_deployments(root: Path, api_url: str) -> bool | None:
    """Start the process that serves the deployments, unless it runs; it belongs to one Prefect server.

    Returns:
        Whether it was started now; None, after one printed sentence, if it cannot be.
    """
    server = _deployments(root, api_url)
    known = _alive(server)
    if known is not None and not _mentions(known.pid, api_url):
        with _locked(server.folder):
            _end(known.pid, first_alone=True)
        known = None
    if _ensure(server) is None:
        return None
    return _alive(server) != known


def stop(root: Path) -> None:
    """Stop what the project started, with its children, and print what was done."""
    for server in (_deployments(root, ""), _prefect(root), _mlflow(root, None), _dashboard(root)):
        if not server.folder.exists():
            print(f"{server.title}: not running", flush=True)
            continue
        with _locked(server.folder):
            record = _alive(server)
            if record is not None:
                # what serves cancels its runs by itself, and tells Prefect
                _end(record.pid, first_alone=server.workspace is not None)
            (server.folder / "server.json").unlink(missing_ok=True)
        print(f"{server.title}: {f'stopped (pid {record.pid})' if record else 'not running'}", flush=True)


def answers(url: str, seconds: float) -> bool:
    """Return whether an HTTP server answers at `url` within `seconds`; a refusal for want of rights is an answer."""
    own = urlsplit(url).hostname in LOOPBACK
    opener = build_opener(ProxyHandler({})) if own else build_opener()
    try:
        with opener.open(url, timeout=seconds):
            return True
    except HTTPError as error:
        return error.code < 500
    except URLError as error:
        return isinstance(error.reason, ssl.SSLCertVerificationError)  # there; its clients are told whom to trust
    except (OSError, HTTPException):
        return False


def _prefect(root: Path) -> _Server:
    folder = root.resolve() / ".mlml" / "prefect"
    return _Server("Prefect server", folder, ("prefect", "server", "start"), "/api/health", "/api", _environment(root))


def _mlflow(root: Path, store: str | None) -> _Server:
    home = root.resolve() / ".mlml"
    artifacts = str(home / "artifacts")
    arguments: tuple[str, ...] = ("mlflow", "server", "--workers", "1")
    arguments += ("--backend-store-uri", store or f"sqlite:///{home / 'mlflow.db'}")
    arguments += ("--default-artifact-root", artifacts, "--artifacts-destination", artifacts)
    return _Server("MLflow server", home / "mlflow", arguments, "/health", "", _environment(root))


def _dashboard(root: Path) -> _Server:
    root = root.resolve()
    return _Server(
        "Optuna dashboard",
        root / ".mlml" / "dashboard",
        ("stages._dashboard", "--root", str(root)),
        "/api/meta",
        "",
        _environment(root),
        root,
    )


def _deployments(root: Path, api_url: str) -> _Server:
    """The process that serves the deployments: it runs stages, which need the user's MLflow settings."""
    mlflow = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_TRACKING_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # the stages say `python`
    environment = {**_environment(root), **mlflow, "PREFECT_API_URL": api_url, "PATH": path}
    return _Server(
        "Deployments",
        root.resolve() / ".mlml" / "deployments",
        ("pipelines.deployments", "--api", api_url),
        "/health",
        "",
        environment,
        root.resolve(),
    )


def _mentions(pid: int, word: str) -> bool:
    """Return whether a process was started with this word."""
    try:
        return word in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def _variable(pid: int, name: str) -> str | None:
    """Value of an environment variable that a process was started with."""
    try:
        return psutil.Process(pid).environ().get(name)
    except psutil.Error:
        return None


def _environment(root: Path) -> dict[str, str]:
    shared = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE_PREFIXES)}
    return {**shared, **settings(root)}


def _ensure(server: _Server) -> str | None:
    """URL of the running server, else of one that is started now."""
    record = _alive(server)
    if record and answers(_url(record) + server.health, seconds=2.0):
        return _url(record) + server.api
    server.folder.mkdir(parents=True, exist_ok=True)
    with _locked(server.folder):
        try:
            for _ in range(3):  # another process may take the free port before the server does
                known = _alive(server)
                record = known or _launch(server)
                if _becomes_healthy(server, record):
                    if not known:
                        print(f"{server.title} started: {_url(record)} (stop it with 'make down')", flush=True)
                    return _url(record) + server.api
                if "already in use" not in (server.folder / "server.log").read_text(errors="replace"):
                    break
            fault = "does not answer; 'make down' ends it" if _alive(server) else "could not be started"
        except OSError as error:
            fault = f"could not be started ({error})"
    print(
        f"{server.title} {fault}, see {server.folder / 'server.log'}; going on without it",
        file=sys.stderr,
        flush=True,
    )
    return None


def _launch(server: _Server) -> _Record:
    """Start the server in a session of its own, holding nothing of this process, and write its record."""
    port = _free_port(server)
    # -P: a folder of the working directory must not shadow the package
    isolated = [] if server.workspace else ["-P"]
    command = [sys.executable, *isolated, "-m", *server.arguments, "--host", LOOPBACK[0], "--port", str(port)]
    # Prefect's pages look for their data where these say, whatever the command line says
    address = {"PREFECT_SERVER_API_HOST": LOOPBACK[0], "PREFECT_SERVER_API_PORT": str(port)}
    address = {} if server.workspace else address
    with (server.folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=server.workspace or server.folder,
            env={**server.environment, **address},
            start_new_session=True,
        )
    begun = psutil.Process(process.pid)
    with suppress(psutil.Error):
        while not begun.cmdline():  # the kernel fills it in a moment after the start
            time.sleep(0.001)
    record = _Record(process.pid, port, begun.create_time())
    # before it is healthy: if this process is killed while it waits, the next one finds the server, and so does `stop`
    unfinished = server.folder / "server.json.tmp"
    unfinished.write_text(json.dumps(asdict(record)))
    unfinished.replace(server.folder / "server.json")
    return record


def _port(server: _Server) -> int:
    """The port that the server has, had last, or is to have: links to its pages outlive it."""
    with suppress(OSError, ValueError):
        return int((server.folder / "port").read_text())
    with socket.socket() as probe:
        probe.bind((LOOPBACK[0], 0))
        port = int(probe.getsockname()[1])
    (server.folder / "port").write_text(str(port))
    return port


def _free_port(server: _Server) -> int:
    """The server's own port, or another if somebody has taken that."""
    with socket.socket() as probe, suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port just left is free
        probe.bind((LOOPBACK[0], _port(server)))
        return _port(server)
    (server.folder / "port").unlink()
    return _port(server)


def _is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def _becomes_healthy(server: _Server, record: _Record) -> bool:
    """Wait until the server answers; false when it has died, or has had its time to start and still does not."""
    while not answers(_url(record) + server.health, seconds=2.0):
        if _alive(server) != record or time.time() - record.started > START_SECONDS:
            return False
        time.sleep(0.1)
    return True


def _alive(server: _Server) -> _Record | None:
    """Record of the server if its process lives and is the one that was started, not another with the same pid."""
    try:
        record = _Record(**json.loads((server.folder / "server.json").read_text()))
        process = psutil.Process(record.pid)
        # psutil derives the start from the wall clock, which may have been set since
        same = abs(process.create_time() - record.started) < 2.0
        command = process.cmdline()
        same = same and {server.arguments[0], str(record.port)} <= set(command)
        return record if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, TypeError, psutil.Error):
        return None


def _end(pid: int, first_alone: bool = False) -> None:
    """Ask the process and its descendants to end, and end those that have not after `GRACE_SECONDS`.

    Args:
        pid: of the process.
        first_alone: give it time to end its descendants by itself.
    """
    try:
        top = psutil.Process(pid)
        family = [top, *top.children(recursive=True)]
    except psutil.Error:
        return
    if first_alone:
        with suppress(psutil.Error):
            top.terminate()
            top.wait(FAMILY_SECONDS)
    for seconds, ask in ((GRACE_SECONDS, psutil.Process.terminate), (GRACE_SECONDS, psutil.Process.kill)):
        for process in family:
            # psutil refuses, by start time, a pid that has passed to a stranger
            try:
                ask(process)
            except psutil.Error:
                continue
        deadline = time.monotonic() + seconds
        while (family := [process for process in family if _runs(process)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not family:
            return


def _runs(process: psutil.Process) -> bool:
    try:
        # threads may outlive the first one by a moment, and hold the port
        return bool(process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1))
    except psutil.Error:
        return False


def _url(record: _Record) -> str:
    return f"http://{LOOPBACK[0]}:{record.port}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel drops with its holder and no child inherits."""
    with (folder / "server.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
