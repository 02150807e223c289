"""The uncommitted changes of a project, applied to a clean checkout, give the same files."""

import os
import subprocess

import pytest

from stages import _diff, _lineage


def git(folder, *arguments, **options):
    identity = {f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **identity}, check=True, capture_output=True, **options
    ).stdout


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    (folder / "reports").mkdir(parents=True)
    for name, text in {
        "code.py": "a\nb\n", "gone.py": "x\n", "dvc.lock": "1\n", "reports/page": "1\n", ".gitignore": "*.tmp\n"
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    (folder / "picture.png").write_bytes(bytes(range(256)))
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "Begin")
    return folder


def files(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".git/" not in f"{p}"
    }


def test_patch_makes_a_clean_checkout_the_same(repository, tmp_path):
    """Changed, staged, deleted, binary, untracked, oddly named files, an executable; a foreign git configuration."""
    for key, value in {"diff.noprefix": "true", "color.ui": "always", "diff.external": "false"}.items():
        git(repository, "config", key, value)
    (repository / "code.py").write_text("a\nc\n")
    (repository / "staged.py").write_text("s\n")
    git(repository, "add", "staged.py")
    (repository / "gone.py").unlink()
    (repository / "picture.png").write_bytes(bytes(range(255, -1, -1)))
    (repository / "package").mkdir()
    (repository / "package" / "new *:[x] é\n.py").write_text("n\n")
    (repository / "run.sh").write_text("true\n")
    (repository / "run.sh").chmod(0o755)
    (repository / "no.tmp").write_text("ignored\n")
    before = git(repository, "status", "--porcelain"), (repository / ".git/index").read_bytes()
    objects = sorted((repository / ".git/objects").rglob("*"))
    patch = _diff.write_patch(repository, tmp_path)
    assert (git(repository, "status", "--porcelain"), (repository / ".git/index").read_bytes()) == before
    assert sorted((repository / ".git/objects").rglob("*")) == objects
    clean = tmp_path / "clean"
    git(tmp_path, "clone", "-q", str(repository), str(clean))
    git(clean, "apply", str(patch))
    wanted = files(repository)
    del wanted["no.tmp"]
    assert files(clean) == wanted
    assert os.access(clean / "run.sh", os.X_OK)


def test_what_dvc_rewrites_is_not_a_change(repository):
    (repository / "dvc.lock").write_text("2\n")
    git(repository, "add", "dvc.lock")
    (repository / "reports/page").write_text("2\n")
    (repository / "reports/new").write_text("2\n")
    assert _lineage.git_state(repository)[1] is False
    assert _diff.uncommitted(repository) == b""


def test_large_files_are_named_and_left_out(repository, monkeypatch):
    monkeypatch.setattr(_diff, "MAX_FILE_BYTES", 1000)
    (repository / "data.bin").write_bytes(os.urandom(1001))
    (repository / "code.py").write_text("c\n")
    patch = _diff.uncommitted(repository).decode()
    assert patch.startswith("# left out: 'data.bin' (1001 bytes, untracked)\ndiff --git a/code.py b/code.py\n")
    git(repository, "checkout", "code.py")
    git(repository, "apply", "-", input=patch.encode())
    assert (repository / "code.py").read_text() == "c\n"


def test_patch_that_is_too_large_is_not_kept_and_says_so(repository, monkeypatch):
    monkeypatch.setattr(_diff, "MAX_BYTES", 50)
    (repository / "code.py").write_text("c\n" * 100)
    patch = _diff.uncommitted(repository).decode()
    assert patch.startswith(_diff.NOT_KEPT)
    assert "diff" not in patch


def test_project_in_a_folder_of_the_repository(repository, tmp_path):
    """Paths are the repository's; what lies beside the project does not matter."""
    (repository / "project").mkdir()
    (repository / "project" / "new.py").write_text("n\n")
    (repository / "code.py").write_text("elsewhere\n")
    patch = _diff.uncommitted(repository / "project").decode()
    assert "b/project/new.py" in patch
    assert "elsewhere" not in patch


def test_outside_of_a_repository_the_patch_says_so(tmp_path):
    with pytest.raises(_diff.DiffError, match="not a git repository"):
        _diff.uncommitted(tmp_path)
    assert _diff.write_patch(tmp_path, tmp_path).read_text().startswith(f"{_diff.NOT_KEPT}'git ls-files' failed")
