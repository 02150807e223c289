"""Whether another machine can have this workspace as it is: all of it committed, and the commit on the git remote."""

import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pipelines.lock_file import WorkspaceError

REMOTE = "origin"


def pushed_commit(folder: Path, outs: Iterable[str]) -> str:
    """Return the workspace's commit.

    Args:
        folder: the workspace.
        outs: paths that stages write; these and dvc.lock may differ from the commit.

    Raises:
        WorkspaceError: no other machine can have what lies here.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():
        raise WorkspaceError(f"{folder}: is not the top of a git repository, so workers cannot have it")
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        raise WorkspaceError(f"{folder}: has no commit yet; make one by 'git commit'")
    different = _different(folder, {PurePosixPath(out) for out in outs} | {PurePosixPath("dvc.lock")})
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise WorkspaceError(
            f"{different[0]}{more}: differs from commit {commit[:9]}, which is what workers run; "
            "commit and push it, or put it back"
        )
    if _git(folder, "remote", "get-url", REMOTE) is None:
        raise WorkspaceError(
            f"no git remote {REMOTE!r}, from which workers get the code; add one by 'git remote add {REMOTE} URL'"
        )
    if not _contains(folder, commit):
        if _git(folder, "fetch", "--quiet", REMOTE) is None:
            raise WorkspaceError(f"git remote {REMOTE!r} does not answer, so workers may not get commit {commit[:9]}")
        if not _contains(folder, commit):
            raise WorkspaceError(
                f"commit {commit[:9]} is not on the git remote {REMOTE!r}, from which workers get the code; "
                "push it by 'git push'"
            )
    return commit


def _different(folder: Path, ignored: set[PurePosixPath]) -> list[str]:
    """Paths that differ from the commit, changed or new, but for some."""
    listed = _git(folder, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all") or ""
    paths = [PurePosixPath(entry[3:]) for entry in listed.split("\0") if entry]
    return sorted(str(path) for path in paths if not any(path.is_relative_to(out) for out in ignored))


def _contains(folder: Path, commit: str) -> bool:
    return bool(_git(folder, "branch", "--remotes", "--list", f"{REMOTE}/*", "--contains", commit))


def _git(folder: Path, *words: str) -> str | None:
    """What git prints; None if it fails."""
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip("\n") if done.returncode == 0 else None
