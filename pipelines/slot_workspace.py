"""Workspaces of a worker: clones of its repository in which stages run, one at a time in each.

A clone is kept for the next stage: git and DVC bring only what differs, and the checkpoints of a stage that was
interrupted are still there.
"""

import base64
import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

FOLDER = Path(".mlml") / "worker"


class CheckOutError(RuntimeError):
    """A commit that cannot be checked out; the message names the way out."""


@contextlib.contextmanager
def free_slot(root: Path) -> Iterator[tuple[int, Path]]:
    """Hold a free workspace of the worker's repository; yields its number and folder. The kernel frees it at any end.

    How many there are is decided by how many stages the worker takes at once.
    """
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        with (folder / f"slot_{number}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                number += 1
                continue
            yield number, folder / f"slot_{number}"
            return


def check_out(root: Path, workspace: Path, commit: str) -> None:
    """Bring a workspace to a commit of the origin of the worker's repository; what DVC made there stays.

    Raises:
        CheckOutError: there is no origin, it does not answer, or it does not have the commit.
    """
    origin = _git(root, "remote", "get-url", "origin")
    if not (workspace / ".git").exists():
        shutil.rmtree(workspace, ignore_errors=True)
        _git(root, "clone", "--quiet", "--no-checkout", origin, str(workspace))
    for lock in ("index.lock", "HEAD.lock", "shallow.lock"):  # of a git that was killed; the slot is ours
        (workspace / ".git" / lock).unlink(missing_ok=True)
    _git(workspace, "remote", "set-url", "origin", origin)
    if not _has(workspace, commit):
        _git(workspace, "fetch", "--quiet", "--force", "origin", "+refs/heads/*:refs/remotes/origin/*")
    if not _has(workspace, commit):
        raise CheckOutError(f"{origin} does not have commit {commit}; push it there by 'git push'")
    _git(workspace, "checkout", "--quiet", "--force", "--detach", commit)
    _git(workspace, "clean", "--quiet", "--force", "-d")
    own = root / ".dvc" / "config.local"  # with what only this machine knows of the remote: keys, an address
    if own.exists():
        shutil.copy(own, workspace / ".dvc" / "config.local")
    else:
        (workspace / ".dvc" / "config.local").unlink(missing_ok=True)


def bring(workspace: Path, lock: str, files: Mapping[str, str]) -> None:
    """Write what neither git nor the DVC remote has: dvc.lock, and small inputs (path -> content in base64)."""
    (workspace / "dvc.lock").write_text(lock)
    for name, content in files.items():
        path = (workspace / name).resolve()
        if not path.is_relative_to(workspace.resolve()):
            raise CheckOutError(f"{name}: lies outside of the workspace")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))
    # of the stages before; pushed with every stage, they would cost more each time
    shutil.rmtree(workspace / ".dvc" / "cache" / "runs", ignore_errors=True)


def _has(workspace: Path, commit: str) -> bool:
    words = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(words, cwd=workspace, env=_environment(), capture_output=True, check=False).returncode == 0


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said: Sequence[str] = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CheckOutError(f"{folder}: 'git {' '.join(words)}' failed: {said[-1]}")
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    return {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
