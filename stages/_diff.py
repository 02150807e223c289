"""What a run was made from beside its commit: the uncommitted changes, as a patch that `git apply` takes.

A number made from changed files can be made again only if the changes are kept; the stage's MLflow run keeps them.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

NAME = "uncommitted.patch"

MAX_FILE_BYTES = 2_000_000
"""An untracked file larger than this is left out, and named: it is data rather than code."""

MAX_BYTES = 20_000_000
"""A larger patch is not kept; what stands in its place says so."""

LEFT_OUT, NOT_KEPT = "# left out: ", "# not kept: "
"""How lines begin that stand before the patch, or in its place; `git apply` skips them."""

_EXCLUDED = (":(exclude)dvc.lock", ":(exclude)reports")
"""As in `stages._lineage.git_state`: DVC itself rewrites them while it runs."""

_ABSOLUTE = ("rev-parse", "--path-format=absolute", "--git-path")


class DiffError(RuntimeError):
    """The changes could not be read; the message is git's."""


def write_patch(folder: Path, target: Path) -> Path:
    """Write the uncommitted changes of the project in `folder` into the folder `target`; return the patch's path.

    Untracked files that git does not ignore are part of it; binary files too. Nothing in the repository is changed,
    its index included. Where git fails, the file says so: a stage does not fail for want of a patch.
    """
    path = target / NAME
    try:
        path.write_bytes(uncommitted(folder))
    except DiffError as error:
        path.write_text(f"{NOT_KEPT}{error}\n")
    return path


def uncommitted(folder: Path) -> bytes:
    """Return the uncommitted changes of the project in `folder`; b"" when there are none.

    Raises:
        DiffError: git fails.
    """
    untracked = _git(folder, "ls-files", "-z", "--others", "--exclude-standard", "--", ".", *_EXCLUDED)
    # a repository within the repository is listed as one folder, and is not a part of this one
    names = [os.fsdecode(name) for name in untracked.split(b"\0") if name and not name.endswith(b"/")]
    sizes = {name: (folder / name).lstat().st_size for name in names if os.path.lexists(folder / name)}
    large = {name: size for name, size in sizes.items() if size > MAX_FILE_BYTES}
    added = b"\0".join(os.fsencode(name) for name in sizes if name not in large)
    with tempfile.TemporaryDirectory() as scratch:
        aside = _aside(folder, Path(scratch))
        _git(folder, "add", "--update", "--", ".", *_EXCLUDED, environment=aside)
        if added:
            literal = {**aside, "GIT_LITERAL_PATHSPECS": "1"}
            source = ("--pathspec-from-file=-", "--pathspec-file-nul")
            _git(folder, "add", *source, environment=literal, given=added)
        # whatever the user's configuration says of prefixes, colours and programs
        form = ("--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames")
        prefixes = ("--src-prefix=a/", "--dst-prefix=b/")
        patch = _git(
            folder, "diff-index", "--cached", "-p", *form, *prefixes, "HEAD", "--", ".", *_EXCLUDED, environment=aside
        )
    if len(patch) > MAX_BYTES:
        return f"{NOT_KEPT}they make a patch of {len(patch)} bytes, the limit is {MAX_BYTES}\n".encode()
    notes = [f"{LEFT_OUT}{name!r} ({size} bytes, untracked)\n" for name, size in sorted(large.items())]
    return "".join(notes).encode() + patch


def _aside(folder: Path, scratch: Path) -> dict[str, str]:
    """Environment in which git has a copy of the index, and writes that and objects into `scratch` alone."""
    index, objects = (Path(_git(folder, *_ABSOLUTE, name).decode().rstrip("\n")) for name in ("index", "objects"))
    if index.exists():
        shutil.copyfile(index, scratch / "index")
    (scratch / "objects").mkdir()
    return {
        "GIT_INDEX_FILE": str(scratch / "index"),
        "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects),
    }


def _git(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None, given: bytes = b"") -> bytes:
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        input=given,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise DiffError(f"'git {arguments[0]}' failed in {folder}: {said}")
    return done.stdout
