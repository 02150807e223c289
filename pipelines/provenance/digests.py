"""md5s as DVC writes them, of files as they lie, and of files as a commit has them."""

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

_IGNORED = ("__pycache__", ".pyc")
"""As in .dvcignore."""


def digest(path: Path) -> str | None:
    """Return the md5 of a file or folder; None when there is none."""
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file() and not _ignored(file.relative_to(path))]
        return of_folder({file.relative_to(path).as_posix(): of_file(file) for file in files})
    return of_file(path) if path.is_file() else None


def of_file(path: Path) -> str:
    """Return the md5 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def of_folder(files: Mapping[str, str]) -> str:
    """Return the md5 of a folder, by the md5s of its files: that of the list which DVC keeps of it."""
    listed = [{"md5": files[name], "relpath": name} for name in sorted(files, key=lambda name: name.split("/"))]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


class Commit:
    """The files of a commit, of the project in a folder.

    Attributes:
        known: the repository has it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        listed = self._git("ls-tree", "-r", "-z", name) if name else None
        self.known = listed is not None
        # "<mode> blob <object>\t<path>"; paths are relative to the folder
        entries = [entry.split("\t", 1) for entry in (listed or b"").decode(errors="surrogateescape").split("\0")[:-1]]
        self._objects = {path: about.split()[2] for about, path in entries}
        self._md5s: dict[str, str] = {}

    def digests(self, paths: Iterable[str]) -> dict[str, str | None]:
        """Return the md5s of files and folders of the commit; None for those that it does not have."""
        inside = {path: self._inside(path) for path in paths}
        md5s = self._of([name for names in inside.values() for name in names])
        return {
            path: (md5s[path] if path in names else of_folder({n.removeprefix(f"{path}/"): md5s[n] for n in names}))
            if names
            else None
            for path, names in inside.items()
        }

    def _inside(self, path: str) -> list[str]:
        """Return the files of a folder, or the file itself."""
        if path in self._objects:
            return [path]
        return [name for name in self._objects if name.startswith(f"{path}/") and not _ignored(Path(name))]

    def _of(self, paths: Iterable[str]) -> dict[str, str]:
        missing = list(dict.fromkeys(path for path in paths if path not in self._md5s))
        if missing:
            asked = "".join(f"{self._objects[path]}\n" for path in missing).encode()
            answer = self._git("cat-file", "--batch", given=asked) or b""
            for path in missing:
                header, _, answer = answer.partition(b"\n")
                size = int(header.split()[2])
                self._md5s[path] = hashlib.md5(answer[:size]).hexdigest()
                answer = answer[size + 1 :]
        return {path: self._md5s[path] for path in paths}

    def _git(self, *arguments: str, given: bytes = b"") -> bytes | None:
        done = subprocess.run(["git", *arguments], cwd=self.folder, input=given, capture_output=True, check=False)
        return done.stdout if done.returncode == 0 else None


def _ignored(path: Path) -> bool:
    return any(part.endswith(_IGNORED) for part in path.parts)
