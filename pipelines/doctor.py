"""A look at what a run needs: programs, devices, servers, disk and settings here; the rest in `pipelines.health`.

Nothing is changed, started or waited for longer than a few seconds.
"""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import psutil

from mlml import declaration
from mlml.config import DeclarationError
from pipelines import health
from pipelines.finding import Finding
from pipelines.garbage import size_of
from stages import _servers

SHOWN = ("torch", "dvc", "prefect", "mlflow", "optuna")
LEAST_BYTES, FEW_BYTES = 10**9, 5 * 10**9
SECONDS = 3.0

# folder under .mlml -> name, path that answers when it is well, path that tells its version, package
_SERVERS = {
    "prefect": ("Prefect server", "/api/health", "/api/admin/version", "prefect"),
    "mlflow": ("MLflow server", "/health", "/version", "mlflow"),
    "dashboard": ("Optuna dashboard", "/api/meta", "", ""),
    "deployments": ("deployments", "/health", "", ""),
}

_QUIET = ("DO_NOT_TRACK", "DVC_NO_ANALYTICS", "MLFLOW_DISABLE_TELEMETRY", "PREFECT_SERVER_ANALYTICS_ENABLED")


def checkup(root: Path) -> Iterator[Finding]:
    """Look at everything.

    Args:
        root: the project, and the working directory.
    """
    looks: dict[str, Callable[[Path], Iterator[Finding]]] = {
        "versions": versions,
        "device": device,
        "declaration": declared,
        "servers": servers,
        "stores": health.stores,
        "disk": disk,
        "locks": health.locks,
        "orphans": health.orphans,
        "settings": settings,
    }
    for area, look in looks.items():
        try:
            yield from look(root)
        except Exception as error:  # one that cannot be looked at must not hide the others
            first = (str(error).splitlines() or [""])[0]
            yield Finding(area, "fault", f"cannot be looked at ({type(error).__name__}: {first})", "mlml check")


def versions(_: Path) -> Iterator[Finding]:
    """Whether what is installed is what the project needs."""
    from packaging.requirements import Requirement

    shown = ", ".join(f"{name} {_version(name) or 'missing'}" for name in SHOWN)
    yield Finding("versions", "ok", f"python {platform.python_version()}, {shown}")
    for text in requires("mlml") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            what = f"{requirement.name} {found or 'is missing'}"
            yield Finding("versions", "fault", f"{what}; needed: {requirement.specifier}", "rm .venv/ready; make repro")


def device(_: Path) -> Iterator[Finding]:
    """Cores, memory and GPUs."""
    import torch

    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory()
    text = f"{cores} cores, {_gigabytes(memory.available)} of {_gigabytes(memory.total)} memory free"
    yield Finding("device", "ok", text)
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(seen):
        about = torch.cuda.get_device_properties(number)
        text = f"GPU {number}: {about.name}, {_gigabytes(about.total_memory)}, CUDA {torch.version.cuda}"
        yield Finding("device", "ok", text)
    listed = _nvidia_smi()
    if listed and not seen:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden in ("", "-1"):
            yield Finding("device", "note", f"{len(listed)} GPUs are hidden by CUDA_VISIBLE_DEVICES={hidden}")
        else:
            built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
            text = f"the driver lists {', '.join(listed)}, but torch uses none: it {built}"
            yield Finding(
                "device", "fault", text, "nvidia-smi  # tells the driver's CUDA: install a torch built for it"
            )
    elif not listed and not seen:
        yield Finding("device", "ok", "no GPU; stages that want one run on the processor")


def declared(root: Path) -> Iterator[Finding]:
    """Whether params.yaml is valid."""
    try:
        found = declaration.read(root / "params.yaml")
    except DeclarationError as error:
        yield Finding("declaration", "fault", f"params.yaml has {len(error.faults)} faults", "mlml check")
        return
    yield Finding("declaration", "ok", f"{len(found.data)} data sets, {len(found.experiments)} experiments")
    cores = len(os.sched_getaffinity(0))
    if found.threads > cores:
        text = (
            f"'threads' is {found.threads}, and this process may use {cores} cores: a stage computes the same, slowly"
        )
        yield Finding("declaration", "note", text)


def servers(root: Path) -> Iterator[Finding]:
    """Servers that the project started, and those that the user names."""
    for folder, (title, health_path, version_path, package) in _SERVERS.items():
        yield from _own_server(root / ".mlml" / folder, title, health_path, version_path, package)
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if url:
        shown = health.without_password(url)
        if _servers.answers(f"{url}/health", SECONDS):
            yield Finding("servers", "ok", f"PREFECT_API_URL {shown} answers")
        else:
            text = f"PREFECT_API_URL {shown} does not answer; stages run without Prefect's pages"
            yield Finding("servers", "fault", text, "unset PREFECT_API_URL  # or start that server")


def disk(root: Path) -> Iterator[Finding]:
    """Free space, and what the project takes."""
    usage = shutil.disk_usage(root)
    text = f"{_gigabytes(usage.free)} of {_gigabytes(usage.total)} free"
    if usage.free < LEAST_BYTES:
        yield Finding("disk", "fault", text, "mlml gc  # then: dvc gc --all-commits --workspace")
    else:
        yield Finding("disk", "note" if usage.free < FEW_BYTES else "ok", text)
    runs = root / ".mlml" / "runs"
    checkpoints = [Path(place, name) for place, _, names in os.walk(runs) for name in names if name.endswith(".ckpt")]
    sizes = {
        "DVC's cache": size_of(health.cache_folder(root)),
        ".mlml": size_of(root / ".mlml"),
        f"{len(checkpoints)} checkpoints in it": sum(size_of(path) for path in checkpoints),
    }
    yield Finding("disk", "ok", ", ".join(f"{name}: {_gigabytes(size)}" for name, size in sizes.items()))


def settings(root: Path) -> Iterator[Finding]:
    """Whether anything reports to somebody else."""
    from dvc.config import Config

    core = Config(str(root / ".dvc")).get("core", {})
    on = [name for name in ("analytics", "check_update") if core.get(name, True)]
    for name in on:
        yield Finding("settings", "fault", f"DVC's core.{name} is on", f"dvc config core.{name} false")
    # the user's own settings go over the project's
    used, usual = _servers.settings(root), _servers.settings(root, {})
    changed = [name for name in _QUIET if used[name].lower() != usual[name]]
    for name in changed:
        text = f"{name}={used[name]} in the environment; the project's own is {usual[name]}"
        yield Finding("settings", "note", text, f"unset {name}")
    if not on and not changed:
        yield Finding("settings", "ok", "DVC, Prefect and MLflow report to nobody")


def _own_server(folder: Path, title: str, health_path: str, version_path: str, package: str) -> Iterator[Finding]:
    try:
        record = json.loads((folder / "server.json").read_text())
        pid, port, started = int(record["pid"]), int(record["port"]), float(record["started"])
    except FileNotFoundError:
        yield Finding("servers", "ok", f"{title}: not running")
        return
    except (ValueError, KeyError, TypeError):
        text = f"{title}: {folder / 'server.json'} cannot be read"
        yield Finding("servers", "fault", text, f"rm {folder / 'server.json'}")
        return
    address = f"http://127.0.0.1:{port}"
    if not health.lives(pid, started):
        text = f"{title}: has ended without a word (pid {pid}); its log: {folder / 'server.log'}"
        yield Finding("servers", "note", text, "mlml up")
    elif not _servers.answers(address + health_path, SECONDS):
        text = f"{title}: pid {pid} lives and does not answer at {address}; its log: {folder / 'server.log'}"
        yield Finding("servers", "fault", text, "mlml down; mlml up")
    else:
        told = _get(address + version_path) if version_path else ""
        installed = _version(package) if package else ""
        if told and told != installed:
            text = f"{title}: runs version {told} at {address}, installed is {installed}"
            yield Finding("servers", "fault", text, "mlml down; mlml up")
        else:
            yield Finding("servers", "ok", f"{title}: pid {pid}, {address}{f', version {told}' if told else ''}")


def _get(url: str) -> str:
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=SECONDS) as answer:
            return str(answer.read().decode()).strip().strip('"')
    except OSError:
        return ""


def _nvidia_smi() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except subprocess.TimeoutExpired:
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gigabytes(number: Any) -> str:
    return f"{number / 10**9:.1f} GB" if number >= 10**8 else f"{number / 10**6:.1f} MB"
