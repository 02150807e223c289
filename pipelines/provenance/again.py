"""Making a value again from nothing: the commands, and their run in a worktree of git without a cache or a store.

Only the raw data, the environment and the Prefect server are the project's own; every stage behind the value runs.
"""

import contextlib
import io
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from pipelines.provenance.chain import Chain, Step, not_kept
from pipelines.provenance.making import Making, WhyError, read_lock
from stages import _servers
from stages._diff import LEFT_OUT

WORKTREES = Path(".mlml") / "worktrees"

_FOREIGN = (
    *("DVC_ROOT", "DVC_STAGE", "DVC_EXP_", "DVC_STUDIO_"),
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT"),
    *("GIT_NAMESPACE", "GIT_PREFIX", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT"),
    *("PREFECT__", "PREFECT_HOME"),
)
"""Beginnings of the variables that would lead the stages to this project's stores, cache and repository."""


@dataclass(frozen=True)
class Remaking:
    """What makes a value again.

    Attributes:
        worktree: the new folder of git; this path and the others are from the project's folder.
        project: the project's folder in it.
        commands: of a shell in the project's folder, in their order.
        patch: file that the commands apply, with its content; None for a run without uncommitted changes.
        warnings: why the result may differ all the same.
    """

    worktree: Path
    project: Path
    commands: list[str]
    patch: tuple[Path, bytes] | None
    warnings: list[str]


def plan(chain: Chain, root: Path) -> Remaking:
    """Return the commands that make a value again.

    Raises:
        WhyError: what the value was made from is not known, or was not kept.
    """
    step = _own(chain)
    run, stage = step.run, step.making.stage
    assert run is not None
    name = f"{stage}_{step.making.key}_{os.getpid()}".replace("/", "_")
    tree = WORKTREES / name
    project = tree / _git(root, "rev-parse", "--show-prefix").strip()
    patch = (tree.with_name(f"{name}.patch"), step.patch) if step.patch else None
    raw = _raw(chain)
    commands = [f"git worktree add --detach {shlex.quote(str(tree))} {run.commit}"]
    commands += [_link(path, project) for path in raw if (root / path).exists()]
    # a file of the commit among the raw data is that file again, not a link, so that git sees no change
    commands.append(f"git -C {shlex.quote(str(tree))} reset --quiet --hard")
    if patch is not None:
        commands.append(f"git -C {shlex.quote(str(tree))} apply {shlex.quote(str(root.resolve() / patch[0]))}")
    at = shlex.quote(str(project))
    # neither a shared cache nor that of earlier runs may give what is to be made
    commands.append(f"dvc --cd {at} cache dir --local .dvc/cache")
    commands.append(f"dvc --cd {at} repro --force --no-run-cache {stage}")
    return Remaking(tree, project, commands, patch, _warnings(chain, step, raw))


def _link(path: str, project: Path) -> str:
    """Command that links raw data: file by file, so that a folder which git knows stays one."""
    source, target = shlex.quote(path), shlex.quote(str(project / path))
    copy = "cp --recursive --symbolic-link --remove-destination"
    return f'mkdir -p $(dirname {target}) && {copy} --no-target-directory "$PWD"/{source} {target}'


def script(remaking: Remaking, root: Path) -> list[str]:
    """Return all lines to type, and write the patch that they apply."""
    _write_patch(remaking, root)
    lines = [f"cd {shlex.quote(str(root))}", f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"]
    foreign = sorted(name for name in os.environ if name.startswith(_FOREIGN))
    if foreign:
        lines.append(f"unset {' '.join(foreign)}")
    return [
        *lines,
        *remaking.commands,
        f"# the value is now in {remaking.project}; after that:",
        f"git worktree remove --force {shlex.quote(str(remaking.worktree))}",
    ]


@contextlib.contextmanager
def made(remaking: Remaking, root: Path, keep: bool) -> Iterator[Path]:
    """Run the commands, yield the project's folder in the worktree, and remove that afterwards unless `keep`.

    Raises:
        WhyError: a command failed.
    """
    environment = _environment(root)
    _write_patch(remaking, root)
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        for command in remaking.commands:
            print(f"$ {command}", flush=True)
            _shell(command, root, environment)
        yield root / remaking.project
    finally:
        signal.signal(signal.SIGTERM, before)
        with contextlib.redirect_stdout(io.StringIO()):
            _servers.stop(root / remaking.project)  # a stage started its own if the project's could not be used
        if keep and (root / remaking.project / "dvc.lock").exists():
            _git(root, "worktree", "lock", str(remaking.worktree))  # 'mlml gc' leaves it alone
        else:
            remove(remaking, root)


def remove(remaking: Remaking, root: Path) -> None:
    """Remove the worktree."""
    if (root / remaking.worktree).exists():
        _git(root, "worktree", "remove", "--force", "--force", str(remaking.worktree))
    if remaking.patch is not None:
        (root / remaking.patch[0]).unlink(missing_ok=True)


def _write_patch(remaking: Remaking, root: Path) -> None:
    (root / WORKTREES).mkdir(parents=True, exist_ok=True)
    if remaking.patch is not None:
        path, content = remaking.patch
        (root / path).write_bytes(content)


def differences(chain: Chain, now: Any, project: Path) -> list[str]:
    """Say how a value that was made again differs from the one then; nothing when it is identical."""
    then = chain.question.value
    if then == now:
        return []
    lines = []
    if isinstance(then, dict) and isinstance(now, dict):
        for key in then.keys() | now.keys():
            old, new = then.get(key), now.get(key)
            by = ""
            if isinstance(old, int | float) and isinstance(new, int | float):
                by = f", a difference of {new - old:g}"
            if old != new:
                lines.append(f"{key}: {old} then, {new} now{by}")
    return [*sorted(lines), *_first_difference(chain, read_lock(project))]


def _first_difference(chain: Chain, remade: Mapping[str, Making]) -> list[str]:
    """Name the stages that read the same as then and left something else, or that read something else from outside."""
    lines = []
    for step in chain.steps.values():
        again = remade.get(step.making.stage)
        if again is None:
            continue
        own = {file.path for file in step.code} | {read.path for read in step.inputs if not read.steps}
        read = sorted(path for path in own if again.inputs.get(path) != step.making.inputs[path])
        left = sorted(path for path, md5 in step.making.outputs.items() if again.outputs.get(path) != md5)
        if again.inputs == step.making.inputs and again.parameters == step.making.parameters and left:
            lines.append(f"{step.name} read the same, and left another {', '.join(left)}")
        if read:
            lines.append(f"{step.name} read another {', '.join(read)}")
        if again.parameters != step.making.parameters:
            lines.append(f"{step.name} had other parameters")
    return lines


def _own(chain: Chain) -> Step:
    """Return the value's own step.

    Raises:
        WhyError: it cannot be made again.
    """
    step = chain.steps[chain.first]
    cannot = f"{chain.question.asked}: cannot be made again"
    if step.run is None or not step.run.commit:
        raise WhyError(f"{cannot}: no run with a commit is known of {step.name}, so its code is not known")
    if not chain.commit(step.run.commit).known:
        raise WhyError(f"{cannot}: commit {step.run.commit} is not in this repository; 'git fetch' may bring it")
    if step.run.dirty and step.patch is None:
        raise WhyError(
            f"{cannot}: the run was made with uncommitted changes to {step.run.commit} and kept none of them; "
            f"commit what you have, and make it anew by 'mlml repro --force {step.making.stage}'"
        )
    if fault := not_kept(step.patch):
        raise WhyError(f"{cannot}: the uncommitted changes of its run were not kept: {fault}")
    return step


def _raw(chain: Chain) -> list[str]:
    """Return the raw data that the chain read."""
    return sorted({read.path for step in chain.steps.values() for read in step.inputs if read.raw})


def _warnings(chain: Chain, step: Step, raw: list[str]) -> list[str]:
    from stages._run import versions

    assert step.run is not None
    lines = [
        f"{read.path} has changed since, and the value is made from it as it is now"
        for path in raw
        for other in chain.steps.values()
        for read in other.inputs
        if read.path == path and read.now != read.md5
    ]
    present = versions()
    lines += [
        f"{package} was {then}, is {present[package]}"
        for package in present
        if (then := step.run.tags.get(f"version.{package}")) not in (None, present[package])
    ]
    device = step.run.tags.get("device", "")
    if device and not device.startswith("cpu"):
        lines.append(f"it was computed on {device}; another device may give other last digits")
    notes = (step.patch or b"").split(b"diff --git", 1)[0].decode(errors="replace").splitlines()
    lines += [f"not kept with the changes: {note.removeprefix(LEFT_OUT)}" for note in notes]
    return list(dict.fromkeys(lines))


def _environment(root: Path) -> dict[str, str]:
    """Environment of the commands: this one, less what ties a process to this project; its Prefect server stays."""
    kept = {name: given for name, given in os.environ.items() if not name.startswith(_FOREIGN)}
    url = _servers.ensure_prefect(root)
    here = str(Path(sys.executable).parent)
    return {**kept, **({"PREFECT_API_URL": url} if url else {}), "PATH": f"{here}{os.pathsep}{kept.get('PATH', '')}"}


def _shell(command: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Run a command; at an interrupt it ends with all that it started."""
    process = subprocess.Popen(["bash", "-c", command], cwd=folder, env=dict(environment))
    try:
        code = process.wait()
    except BaseException:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.terminate()
        psutil.wait_procs(family, timeout=20)
        process.kill()
        process.wait()
        raise
    if code != 0:
        raise WhyError(f"'{command}' failed with exit code {code}; what it said stands above")


def _leave(*_: int | FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WhyError(f"{folder}: 'git {arguments[0]}' failed: {done.stderr.strip()}")
    return done.stdout
