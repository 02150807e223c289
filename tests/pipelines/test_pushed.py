import subprocess

import pytest

from pipelines.lock_file import WorkspaceError
from pipelines.pushed import pushed_commit
from pipelines.slot_workspace import CheckOutError, bring, check_out, free_slot

AUTHOR = ["-c", "user.name=test", "-c", "user.email=test@example.org"]


def git(folder, *words):
    done = subprocess.run(["git", *AUTHOR, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def workspace(tmp_path):
    """A committed workspace with an empty origin."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    git(tmp_path, "init", "-q", "--bare", "bare.git")
    git(folder, "init", "-q")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("")
    (folder / "code.py").write_text("one\n")
    (folder / "dvc.lock").write_text("one\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "One")
    git(folder, "remote", "add", "origin", str(tmp_path / "bare.git"))
    return folder


def push(workspace):
    git(workspace, "push", "-q", "origin", "HEAD")


def test_a_pushed_commit_may_run_elsewhere_and_outputs_may_differ(workspace):
    push(workspace)
    (workspace / "dvc.lock").write_text("two\n")
    (workspace / "models").mkdir()
    (workspace / "models" / "new").touch()
    assert pushed_commit(workspace, ["models"]) == git(workspace, "rev-parse", "HEAD")


def test_what_no_other_machine_can_have_is_refused(workspace, tmp_path):
    with pytest.raises(WorkspaceError, match=r"^commit \w{9} is not on the git remote 'origin', .* by 'git push'$"):
        pushed_commit(workspace, [])
    push(workspace)
    (workspace / "new file.py").touch()
    with pytest.raises(WorkspaceError, match=r"^new file.py: differs from commit \w{9}, .*; commit and push it"):
        pushed_commit(workspace, ["models"])
    (workspace / "code.py").write_text("two\n")
    with pytest.raises(WorkspaceError, match=r"^code.py and 1 more: differs"):
        pushed_commit(workspace, ["models"])
    (workspace / "new file.py").unlink()
    git(workspace, "commit", "-qam", "Two")
    git(workspace, "remote", "set-url", "origin", str(tmp_path / "nowhere.git"))
    with pytest.raises(WorkspaceError, match=r"^git remote 'origin' does not answer"):
        pushed_commit(workspace, [])
    git(workspace, "remote", "remove", "origin")
    with pytest.raises(WorkspaceError, match=r"^no git remote 'origin'"):
        pushed_commit(workspace, [])
    (workspace / "below").mkdir()
    with pytest.raises(WorkspaceError, match="is not the top of a git repository"):
        pushed_commit(workspace / "below", [])


def test_a_slot_follows_the_commits_and_keeps_what_git_ignores(workspace, tmp_path):
    push(workspace)
    git(tmp_path, "clone", "-q", "bare.git", "worker")
    root, slot = tmp_path / "worker", tmp_path / "worker" / ".mlml" / "worker" / "slot_0"
    (root / ".dvc" / "config.local").write_text("key = secret\n")
    (workspace / ".gitignore").write_text("models\n.mlml\n")
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "Two")
    second = git(workspace, "rev-parse", "HEAD")
    with pytest.raises(CheckOutError, match=f"does not have commit {second}; push it there"):
        check_out(root, slot, second)
    push(workspace)
    check_out(root, slot, second)
    assert (slot / ".dvc" / "config.local").read_text() == "key = secret\n"
    (slot / "models").mkdir()
    (slot / "models" / "kept").touch()
    (slot / "stray.py").touch()
    (slot / "code.py").write_text("edited\n")
    (slot / ".git" / "index.lock").touch()  # of a git that was killed
    check_out(root, slot, second)
    assert (slot / "code.py").read_text() == "one\n"
    assert not (slot / "stray.py").exists()
    assert (slot / "models" / "kept").exists()
    bring(slot, "lock\n", {"data/checked": "b2sK"})
    assert ((slot / "dvc.lock").read_text(), (slot / "data" / "checked").read_text()) == ("lock\n", "ok\n")
    with pytest.raises(CheckOutError, match="lies outside"):
        bring(slot, "lock\n", {"../outside": "b2sK"})


def test_each_stage_has_a_slot_of_its_own(tmp_path):
    with free_slot(tmp_path) as first, free_slot(tmp_path) as second:
        assert [first[0], second[0]] == [0, 1]
    with free_slot(tmp_path) as third:
        assert third == first
