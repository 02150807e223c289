"""What is referred to stays: each reason to stay alone keeps a thing that would go without it."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlml.tracking.run import Record, Run, lock_file
from mlml.tracking.store import connect, prepare_store
from mlml.tracking.sync import sync
from pipelines import garbage, mlflow_runs
from pipelines.commands import gc
from pipelines.garbage import Found
from pipelines.references import References, keys_of_lock, references
from stages import _lineage

STAGE = "pretext@simclr"
KEY, OTHER = "a" * 16, "b" * 16
NOBODY = References({STAGE: KEY}, frozenset(), frozenset(), frozenset())
COMMIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q")


def recorded(root, stage=STAGE, key=OTHER, status="FINISHED", sent=True, seeds=1) -> Path:
    """A stage's run with runs nested in it, with checkpoints, as stages/_run.py leaves them."""
    folder = root / ".mlml" / "runs" / stage / key
    run = Run.open(folder, stage, "mlml", {"dvc.stage": stage, "dvc.key": key})
    nested = [Run.open(folder / f"seed_{n}", f"seed {n}", "mlml", parent=folder) for n in range(seeds)]
    for one in [*nested, run]:
        (one.folder / "step_5.ckpt").write_bytes(bytes(10_000))
        one.finish(status)
        if sent:
            notes = {"record": one.record.id, "sender": "", "experiment_id": "1", "run_id": "2"}
            notes["done"] = [one.record.opened, status]
            (one.folder / "sent.json").write_text(json.dumps(notes))
    return folder


def found(root, referred=NOBODY, unsent=False) -> Found:
    return garbage.run_folders(root, referred, unsent)


def paths(found: Found) -> list[Path]:
    return [item.path for item in found.items]


def test_a_run_that_nothing_names_goes(tmp_path):
    folder = recorded(tmp_path)
    gone = recorded(tmp_path, "pretext@undeclared")
    result = found(tmp_path)
    assert paths(result) == [folder, gone]
    assert result.items[0].size >= 20_000
    assert result.kept == []
    for item in result.items:
        assert garbage.remove(tmp_path, item)
    assert list((tmp_path / ".mlml").rglob("*")) == [tmp_path / ".mlml" / "runs"]


@pytest.mark.parametrize(
    "referred",
    [
        References({STAGE: OTHER}, frozenset(), frozenset(), frozenset()),
        References({STAGE: None}, frozenset(), frozenset(), frozenset()),  # what it reads is not there
        References({STAGE: KEY}, frozenset({OTHER}), frozenset(), frozenset()),
    ],
    ids=["declared", "not to be told", "in dvc.lock"],
)
def test_a_run_that_is_referred_to_stays(tmp_path, referred):
    recorded(tmp_path)
    assert paths(found(tmp_path, referred)) == []


def test_the_newest_unfinished_run_of_a_declared_stage_stays(tmp_path):
    older, newer = (recorded(tmp_path, key=key * 16, status="KILLED") for key in "cd")
    for folder, opened in ((older, 1), (newer, 2)):
        record = Record.read(folder)
        record.opened = opened
        record.write(folder)
    undeclared = recorded(tmp_path, "pretext@undeclared", status="KILLED")
    assert paths(found(tmp_path, unsent=True)) == [older, undeclared]


def test_what_mlflow_does_not_have_stays_unless_told(tmp_path):
    whole, folder = recorded(tmp_path, key="c" * 16), recorded(tmp_path)
    (folder / "seed_0" / "sent.json").unlink()  # one of the nested runs is enough
    result = found(tmp_path)
    assert paths(result) == [whole]
    assert result.kept[0].startswith("1 run folders of which MLflow does not have everything; 'mlml sync'")
    assert paths(found(tmp_path, unsent=True)) == [folder, whole]


@pytest.mark.parametrize("name", ["alive.lock", "lock", "seed_0/alive.lock"])
def test_a_run_that_a_process_works_on_stays(tmp_path, name):
    folder = recorded(tmp_path)
    [item] = found(tmp_path).items
    with lock_file(folder / name, 0):
        result = found(tmp_path)
        assert result.items == []
        assert result.kept == [f".mlml/runs/{STAGE}/{OTHER}: a process works on it"]
        assert not garbage.remove(tmp_path, item)  # it was opened after the listing
        assert (folder / "seed_0" / "step_5.ckpt").exists()
    assert garbage.remove(tmp_path, item)


def test_what_cannot_be_read_or_is_of_another_kind_stays(tmp_path):
    folder = recorded(tmp_path)
    (folder / "seed_0" / "run.json").write_text("{")
    (folder.parent / "notes").mkdir()
    result = found(tmp_path, unsent=True)
    assert result.items == []
    assert "cannot be read" in result.kept[0]


def test_a_removal_that_was_killed_is_finished(tmp_path, monkeypatch):
    folder = recorded(tmp_path)
    [item] = found(tmp_path).items

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(garbage.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            garbage.remove(tmp_path, item)
    assert not folder.exists()
    [left] = garbage.remains(tmp_path).items
    assert garbage.remove(tmp_path, left)
    assert garbage.remains(tmp_path).items == []
    assert not (tmp_path / ".mlml" / "garbage").exists()


def test_the_study_of_a_search_goes_with_its_folder(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("mlml.search._storage.forget", lambda name: asked.append(name))
    recorded(tmp_path)
    folder = recorded(tmp_path, "search@rate")
    (folder / "study").mkdir()
    (folder / "study" / "journal.log").touch()
    for item in found(tmp_path).items:
        assert garbage.remove(tmp_path, item)
    assert not folder.exists()
    assert asked == [f"search@rate/{OTHER}"]


def test_a_search_whose_database_is_away_stays(tmp_path, monkeypatch):
    folder = recorded(tmp_path, "search@rate")
    monkeypatch.setenv("MLML_OPTUNA_STORAGE", "postgresql://127.0.0.1:9/optuna")
    [item] = found(tmp_path).items
    with pytest.raises(OSError, match="MLML_OPTUNA_STORAGE: the database does not answer"):
        garbage.remove(tmp_path, item)
    assert folder.exists()


def test_temporary_workspaces_go_once_nobody_works_there(workspace):
    root = workspace.folder
    workspace.run("git", "add", "-A")
    workspace.run(*COMMIT, "-m", "all")
    idle, busy = (root / ".dvc/tmp/exps/standalone" / name for name in ("tmpidle", "tmpbusy"))
    for folder in (idle, busy):
        (folder / "models").mkdir(parents=True)
        (folder / "models" / "a").write_bytes(bytes(10_000))
    tree, kept = root / ".mlml" / "tree", root / ".mlml" / "kept"
    for folder in (tree, kept):
        workspace.run("git", "worktree", "add", "-q", "--detach", str(folder))
    workspace.run("git", "worktree", "lock", str(kept))
    program = "print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], cwd=busy / "models", **pipes) as process:
        process.stdout.readline()
        result = garbage.temporary_workspaces(root)
        assert paths(result) == [idle, tree]
        assert result.kept == [f".dvc/tmp/exps/standalone/tmpbusy: process {process.pid} works there"]
        (root / "dvc").write_text(program)
        with subprocess.Popen([sys.executable, "dvc"], **pipes) as dvc:  # it may be about to work in one
            dvc.stdout.readline()
            assert garbage.temporary_workspaces(root).items == []
            assert not garbage.remove(root, result.items[0])
            dvc.communicate(b"\n")
        for item in result.items:
            assert garbage.remove(root, item)
        process.communicate(b"\n")
    assert (idle.exists(), busy.exists(), tree.exists(), kept.exists()) == (False, True, False, True)
    listed = workspace.run("git", "worktree", "list", "--porcelain")
    assert "kept" in listed
    assert "tree\n" not in listed.replace("worktree ", "")


def test_a_patch_goes_once_its_worktree_is_not_there(workspace):
    trees = workspace.folder / ".mlml" / "worktrees"
    (trees / "probe@a.b_1").mkdir(parents=True)
    for name in ("probe@a.b_1", "probe@a.b_2"):
        (trees / f"{name}.patch").write_text("diff")
    [item] = garbage.temporary_workspaces(workspace.folder).items
    assert item.path.name == "probe@a.b_2.patch"
    assert garbage.remove(workspace.folder, item)
    assert [path.name for path in trees.glob("*.patch")] == ["probe@a.b_1.patch"]


def test_keys_are_those_of_every_lock_that_git_reaches(workspace):
    folder = workspace.folder
    (folder / "params.yaml").write_text("a: {rate: 1.0e-3, widths: [1, 2], name: x}\n")
    (folder / "data").mkdir()
    (folder / "data" / "1").write_text("one")
    (folder / "dvc.yaml").write_text(
        "stages:\n  one:\n    foreach: [a]\n    do:\n      cmd: cp data/1 ${item}.out\n"
        "      params: [a]\n      deps: [data]\n      outs: ['${item}.out']\n"
        "  two: {cmd: cp a.out b.out, deps: [a.out], outs: [b.out]}\n"
    )

    def ran(rate) -> set[str]:
        (folder / "params.yaml").write_text(f"a: {{rate: {rate}, widths: [1, 2], name: x}}\n")
        workspace.dvc("repro", "-q", "one")
        [key] = {lineage.key for lineage in _lineage.of_all(["one@a"]).values()}
        assert key in keys_of_lock((folder / "dvc.lock").read_bytes())
        return {key}

    workspace.dvc("repro", "-q")
    declared = {name: lineage.key for name, lineage in _lineage.of_all(["one@a", "two"]).items()}
    assert keys_of_lock((folder / "dvc.lock").read_bytes()) == set(declared.values())
    workspace.run("git", "add", "-A")
    workspace.run(*COMMIT, "-m", "first")
    branch = ran("2.0e-3")
    workspace.run("git", "checkout", "-qb", "other")
    workspace.run(*COMMIT, "-am", "on a branch")
    workspace.run("git", "checkout", "-q", "-")
    amended = ran("3.0e-3")
    workspace.run(*COMMIT, "-am", "to be amended")
    never = ran("4.0e-3")
    here = ran("5.0e-3")
    workspace.run(*COMMIT, "--amend", "-am", "amended")
    experiment = ran("6.0e-3")
    workspace.run(*COMMIT, "-am", "experiment")
    workspace.run("git", "update-ref", "refs/exps/ab/cdef/warm-fog", "HEAD")
    workspace.run("git", "reset", "-q", "--hard", "HEAD~1")
    referred = references(folder)
    first = {declared["one@a"]}
    assert first | branch | amended | here | experiment <= referred.committed
    assert not never & referred.everywhere
    assert here <= referred.locked
    assert referred.experiments == {"warm-fog"}
    assert referred.doubt == ""
    (folder / "data" / "1").unlink()
    (folder / "data").rmdir()
    assert references(folder).declared == {"one@a": None, "two": declared["two"]}
    whole = (folder / "dvc.lock").read_bytes()
    (folder / "dvc.lock").write_text("stages: {one: {")
    workspace.run(*COMMIT, "-am", "by a hand that slipped")
    (folder / "dvc.lock").write_bytes(whole)
    assert references(folder).doubt == "not a whole dvc.lock: ParserError"


def test_without_the_whole_history_there_is_doubt(workspace, tmp_path, monkeypatch):
    workspace.declare(a=("echo a > a.out", []))
    for text in "12":
        (workspace.folder / "dvc.lock").write_text(f"schema: '2.0'\nstages:\n  a: {{cmd: echo {text}}}\n")
        workspace.run("git", "add", "-A")
        workspace.run(*COMMIT, "-m", text)
    assert len(references(workspace.folder).committed) == 2
    shallow = tmp_path / "shallow"
    workspace.run("git", "clone", "-q", "--depth=1", f"file://{workspace.folder}", str(shallow))
    monkeypatch.chdir(shallow)
    assert "only a part of the history" in references(shallow).doubt
    os.rename(shallow / ".git", shallow / "was.git")
    (shallow / ".dvc" / "config").write_text("[core]\nno_scm = true\n")
    assert references(shallow).doubt == "this is no git repository"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path.resolve() / '.mlml' / 'mlflow.db'}"
    prepare_store(uri)
    return uri


def test_runs_at_mlflow(tmp_path, store):
    tags = {
        "gone": {"dvc.key": "1" * 16},
        "referred": {"dvc.key": "2" * 16},
        "folder stays": {"dvc.key": "3" * 16},
        "running": {"dvc.key": "4" * 16},
        "of an experiment": {"dvc.key": "5" * 16, "dvc.exp": "warm-fog"},
        "registered": {"dvc.key": "6" * 16},
        "by hand": {},
    }
    ids = {}
    for number, (name, given) in enumerate(tags.items()):
        run = Run.open(tmp_path / "elsewhere" / str(number), name, "mlml", given)
        run.log_artifact(Path(__file__))
        if name != "running":
            run.finish()
        ids[name] = sync(run.folder, store).run_id
    client = connect(store)
    client.create_registered_model("best")
    client.create_model_version("best", source="x", run_id=ids["registered"])
    referred = References({}, frozenset(), frozenset({"2" * 16}), frozenset({"warm-fog"}))
    result = mlflow_runs.unreferred_runs(tmp_path, referred, {"3" * 16}, shared=False)
    assert [item.run_id for item in result.items] == [ids["gone"]]
    [item] = result.items
    assert item.size > 1000
    assert item.path.exists()
    doubt = References({}, frozenset(), frozenset(), frozenset(), "git is away")
    assert mlflow_runs.unreferred_runs(tmp_path, doubt, (), shared=False).items == []
    mlflow_runs.remove_runs(tmp_path, result.items)
    assert not item.path.exists()
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name("mlml").experiment_id
    left = client.search_runs([experiment], run_view_type=ViewType.ALL)
    assert {run.info.run_id for run in left} == set(ids.values()) - {ids["gone"]}
    assert len(client.list_artifacts(ids["referred"])) == 1


def test_a_store_that_others_may_use_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert mlflow_runs.unreferred_runs(tmp_path, NOBODY, (), shared=False) == Found()
    assert not (tmp_path / ".mlml").exists()  # and none is made
    (tmp_path / "team.db").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'team.db'}")
    result = mlflow_runs.unreferred_runs(tmp_path, NOBODY, (), shared=False)
    assert result.items == []
    assert "which others may use; --shared" in result.kept[0]


@pytest.mark.parametrize(
    ("arguments", "answer", "code", "said"),
    [
        ([], None, 2, "nobody to ask; 'mlml gc --yes' removes what is listed"),
        ([], "n", 0, "nothing was removed"),
        ([], "y", 0, "1 removed"),
        (["--yes"], None, 0, "1 removed"),
    ],
)
def test_nothing_goes_unasked(tmp_path, monkeypatch, capsys, arguments, answer, code, said):
    folder = recorded(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(gc, "read_or_exit", lambda: None)
    monkeypatch.setattr(gc, "_find", lambda *_: found(tmp_path))
    monkeypatch.setattr("sys.stdin.isatty", lambda: answer is not None)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    parser = argparse.ArgumentParser()
    gc.add_arguments(parser)
    try:
        gc.run(parser.parse_args(arguments))
        ended = 0
    except SystemExit as error:
        ended = error.code
    printed = capsys.readouterr()
    assert ended == code
    assert said in printed.out + printed.err
    assert printed.out.startswith("1 run folder, ")
    assert folder.exists() == ("1 removed" not in said)


def test_a_listing_counts_and_sums():
    items = [garbage.Item("run folder", "one", 900), garbage.Item("run folder", "two", 1_500_000)]
    assert gc.listing(Found(items, ["three"])) == [
        "2 run folders, 1.5 MB:",
        "      900 B  one",
        "     1.5 MB  two",
        "stays: three",
    ]
    assert gc.listing(Found()) == ["nothing to remove"]
