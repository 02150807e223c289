"""`mlml why`: from the report's top number down to the raw data, and the same number made again from nothing.

The tests of this module stand on each other, in their order: they share one project.
"""

import contextlib
import csv
import json
import re

import pytest

from mlml.tracking.run import Notes, Record
from pipelines import cli
from pipelines.provenance import again

DECLARATION = """
threads: 1
data:
  digits: {source: digits}
supervised: {}
pretext:
  simclr:
    method: simclr
    dataset: digits
    encoder: {network: mlp, hidden_widths: [16]}
    train: {steps: 6, batch_size: 64, log_every: 2, evaluate_every: 3, checkpoint_every: 5}
    seeds: [0, 1]
probe:
  simclr_linear: {method: linear, dataset: digits, encoder: simclr, seeds: [0, 1], train: {steps: 10}}
generative: {}
search: {}
report: {title: Why}
"""

pytestmark = pytest.mark.soak

METRIC = "reports/metrics/simclr_linear.json:test/accuracy"


@pytest.fixture(scope="module")
def made(project):
    project.declare(DECLARATION)
    project.run("git", "commit", "-qam", "Declare less")
    project.repro()
    return project


@pytest.fixture
def why(made, monkeypatch, capsys):
    """Call `mlml why` in the project, in this process; returns what it prints."""
    monkeypatch.chdir(made.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*words, code=0):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main(["why", *words])
        printed = capsys.readouterr()
        assert end.value.code == code, printed
        return printed.err if code == 2 else printed.out

    return call


def top(project) -> dict[str, str]:
    return next(csv.DictReader((project.folder / "reports/leaderboard.csv").open()))


def run_id(project, stage: str) -> str:
    return Notes.read(project.folder / ".mlml/runs" / stage / made_key(project, stage)).run_id


def made_key(project, stage: str) -> str:
    """Folder of the stage's newest run."""
    folders = (project.folder / ".mlml/runs" / stage).iterdir()
    return max(folders, key=lambda folder: Record.read(folder).start).name


def test_report_says_nothing_that_a_run_drew(made):
    """No MLflow id, no port, no path of the machine: dvc.lock holds the md5s of these files."""
    pages = (made.folder / "reports/index.html").read_text() + (made.folder / "reports/leaderboard.csv").read_text()
    records = [path.parent for path in (made.folder / ".mlml/runs").rglob(Notes.FILE)]
    assert len(records) == 8
    drawn = {Notes.read(folder).run_id for folder in records} | {Record.read(folder).id for folder in records}
    assert not [one for one in (*drawn, str(made.folder), "127.0.0.1") if one in pages]
    # what they link to knows where MLflow is
    assert "http://127.0.0.1:" in (made.folder / ".mlml/runs.html").read_text()


def test_chain_of_the_top_number(made, why):
    row, lock = top(made), made.lock()
    told = json.loads(why("reports/leaderboard.csv:simclr.linear", "--json"))
    assert told["value"]["mean"] == float(row["mean"])
    assert (told["holds"], told["first"]) == (True, row["stage"])
    assert list(told["steps"]) == ["probe@simclr_linear", "check", "prepare@digits", "pretext@simclr"]
    head = made.run("git", "rev-parse", "HEAD").strip()
    for name, step in told["steps"].items():
        read = {item["path"]: item["md5"] for item in (*step["code"], *step["inputs"])}
        assert read == {entry["path"]: entry["md5"] for entry in lock[name]["deps"]}
        assert step["outputs"] == {entry["path"]: entry["md5"] for entry in lock[name]["outs"]}
        assert (step["command"], step["params"]) == (
            lock[name]["cmd"],
            lock[name].get("params", {}).get("params.yaml", {}),
        )
        if name != "check":
            assert (step["run"], step["commit"], step["dirty"]) == (run_id(made, name), head, False)
            assert len(step["code"]) > 10
            assert all(file["md5"] == file["in_commit"] == file["now"] for file in step["code"])
    made_by = {i["path"]: i["made_by"] for step in told["steps"].values() for i in step["inputs"]}
    assert made_by == {
        "data/checked": ["check"], "data/raw": [], "data/prepared/digits": ["prepare@digits"],
        "models/simclr": ["pretext@simclr"],
    }  # fmt: skip


def test_text_is_for_people(made, why):
    printed = why("reports/leaderboard.csv:digits.simclr.linear")
    lines = printed.splitlines()
    assert lines[0] == f"reports/leaderboard.csv:digits.simclr.linear: {top(made)['mean']} ± {top(made)['interval95']}"
    for line in (
        f"run      {run_id(made, 'pretext@simclr')} FINISHED",
        f"command  {made.lock()['pretext@simclr']['cmd']}",
        f"commit   {made.run('git', 'rev-parse', 'HEAD').strip()}",
        "param    pretext.simclr.train.steps: 6",
        "files and folders, 0 of them other than in the commit",
        "(raw data)",
        "<- prepare@digits (above)",
    ):
        assert line in printed
    assert lines[-1].startswith("holds: 4 stages")
    assert max(len(line) for line in lines) < 160
    assert "mlml/probes/linear.py  md5" in why(METRIC, "--code")


@pytest.mark.parametrize(
    ("what", "first", "value"),
    [
        ("reports/leaderboard.csv:probe@simclr_linear", "probe@simclr_linear", "mean"),
        (METRIC, "probe@simclr_linear", "seed_1"),
        ("models/simclr/seed_0/model.json", "pretext@simclr", "models/simclr/seed_0/model.json"),
        ("models/simclr", "pretext@simclr", "models/simclr"),
        ("reports/index.html", "report", "reports/index.html"),
        ("pretext@simclr", "pretext@simclr", "reports/curves/simclr.csv"),
    ],
)
def test_what_can_be_asked(why, what, first, value):
    told = json.loads(why(what, "--json"))
    assert (told["first"], told["faults"]) == (first, [])
    assert value in told["value"]
    assert told["holds"] is True


def test_runs_and_keys_can_be_asked(made, why):
    whole, key = run_id(made, "pretext@simclr"), top(made)["key"]
    told = [json.loads(why(text, "--json")) for text in (whole, whole[:12], key)]
    assert [one["first"] for one in told] == ["pretext@simclr", "pretext@simclr", "probe@simclr_linear"]
    [nested] = (made.folder / ".mlml/runs/probe@simclr_linear").glob(f"*/seed_1/{Notes.FILE}")
    told = json.loads(why(Notes.read(nested.parent).run_id, "--json"))
    assert told["first"] == "probe@simclr_linear"
    assert run_id(made, "probe@simclr_linear") in told["about"]


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("models/simlcr", "is no stage, no MLflow run, and no output in dvc.lock; did you mean 'models/simclr'?"),
        ("reports/metrics/simclr_linear.json:test/acuracy", "did you mean 'test/accuracy'?"),
        ("reports/leaderboard.csv:simclr.linaer", "did you mean 'simclr.linear'?"),
        ("mlml/train.py", "is made by no stage; it is read by pretext@simclr, probe@simclr_linear"),
        ("reports", "of 3 stages; name one: reports/curves/simclr.csv, reports/diagnostics/simclr.json, "),
        ("/etc/hostname", "lies outside of the project"),
        ("0000ffff", "begins the id of no run"),
    ],
)
def test_what_cannot_be_told_is_one_sentence(why, what, sentence):
    printed = why(what, code=2)
    assert sentence in printed
    assert len(printed.splitlines()) == 1


def test_cells_of_one_name_are_told_apart(made, why):
    path = made.folder / "reports/leaderboard.csv"
    text = path.read_text()
    row = text.splitlines()[1]
    path.write_text(f"{text}{row.replace('digits', 'letters').replace('probe@simclr', 'probe@other')}\n")
    printed = why("reports/leaderboard.csv:simclr.linear", code=2)
    assert "2 cells have this name" in printed
    assert "digits.simclr.linear, letters.simclr.linear" in printed
    told = json.loads(why("reports/leaderboard.csv:digits.simclr.linear", "--json"))
    assert told["faults"] == [
        "reports/leaderboard.csv is not the file that dvc.lock holds; 'mlml repro report' writes it anew"
    ]
    path.write_text(text)


def test_what_does_not_hold_any_more_is_said(made, why, monkeypatch):
    """A changed output, parameter and code file, a missing model, a cell that says another number, no MLflow."""
    saved = {
        name: (made.folder / name).read_text()
        for name in ("params.yaml", "mlml/pretext/simclr.py", METRIC.split(":")[0])
    }
    made.edit("params.yaml", "steps: 6", "steps: 7")
    made.edit("mlml/pretext/simclr.py", "import", "import  ")
    summary = json.loads(saved[METRIC.split(":")[0]])
    summary["test/accuracy"]["mean"] = 0.5
    (made.folder / METRIC.split(":")[0]).write_text(json.dumps(summary))
    (made.folder / "models/simclr").rename(made.folder / "moved")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    try:
        told = json.loads(why("reports/leaderboard.csv:simclr.linear", "--json"))
        printed = why("reports/leaderboard.csv:simclr.linear")
    finally:
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        (made.folder / "moved").rename(made.folder / "models/simclr")
        for name, text in saved.items():
            (made.folder / name).write_text(text)
    assert told["holds"] is False
    assert len(told["faults"]) == 2
    assert "there is no MLflow store" in told["faults"][1]
    assert "'mean': 0.5" in told["faults"][0]
    probe, encoder = (told["steps"][name]["faults"] for name in ("probe@simclr_linear", "pretext@simclr"))
    model = told["steps"]["pretext@simclr"]["outputs"]["models/simclr"]
    assert encoder == [
        "code has changed since: mlml/pretext/simclr.py",
        f"models/simclr is not on disk; it was left with md5 {model}",
        "params.yaml has changed since: pretext.simclr.train.steps was 6, is 7",
    ]
    assert "models/simclr is not there any more" in probe
    assert any(fault.startswith("reports/metrics/simclr_linear.json is ") for fault in probe)
    # the local record still tells the run
    assert told["steps"]["pretext@simclr"]["run"] == run_id(made, "pretext@simclr")
    assert printed.splitlines()[-1].startswith("does not hold as it is now:")
    assert json.loads(why(METRIC, "--json"))["holds"] is True


def test_the_top_number_is_made_again_from_nothing(made, why):
    """Criterion 7: in a clean worktree, every stage runs, and the number is identical."""
    before = made.hashes("reports", "models", "dvc.lock")
    what = "reports/leaderboard.csv:simclr.linear"
    commands = why(what, "--reproduce")
    assert f"git worktree add --detach .mlml/worktrees/probe@simclr_linear_{top(made)['key']}" in commands
    printed = made.run("mlml", "why", what, "--reproduce", "--run")
    ran = [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]
    assert ran == ["check", "prepare@digits", "pretext@simclr", "probe@simclr_linear"]
    value = f"{top(made)['mean']} ± {top(made)['interval95']}"
    for line in (f"then: {value}", f"now:  {value}", "identical"):
        assert line in printed.splitlines()
    assert made.run("git", "worktree", "list").count("\n") == 1
    assert list((made.folder / ".mlml/worktrees").iterdir()) == []
    assert made.hashes("reports", "models", "dvc.lock") == before


def test_another_result_is_told_and_fails(made, why, monkeypatch, tmp_path):
    """The comparison alone: as if the worktree had left another number, by an encoder that came out different."""
    (tmp_path / "reports/metrics").mkdir(parents=True)
    summary = json.loads((made.folder / METRIC.split(":")[0]).read_text())
    mean = summary["test/accuracy"]["mean"]
    summary["test/accuracy"]["mean"] += 0.25
    (tmp_path / METRIC.split(":")[0]).write_text(json.dumps(summary))
    encoder = made.lock()["pretext@simclr"]["outs"][0]["md5"]
    (tmp_path / "dvc.lock").write_text((made.folder / "dvc.lock").read_text().replace(encoder, "0" * 32 + ".dir"))
    monkeypatch.setattr(again, "made", lambda *_: contextlib.nullcontext(tmp_path))
    lines = why(METRIC, "--reproduce", "--run", code=1).splitlines()
    assert f"mean: {mean} then, {mean + 0.25} now, a difference of 0.25" in lines
    assert "pretext@simclr read the same, and left another models/simclr" in lines
    assert not [line for line in lines if "prepare@digits" in line or line == "identical"]


def test_changes_that_were_not_committed_are_shown_and_made_again(made, why):
    """A run from changed code, and a new file: the chain shows the patch, and the data comes out the same from it."""
    clean = run_id(made, "prepare@digits")
    before = made.lock()["prepare@digits"]["outs"]
    made.edit("mlml/data/sources/digits.py", "255 / 16", "SCALE / 16")
    made.edit("mlml/data/sources/digits.py", "import numpy", "from mlml.data.extra import SCALE\n\nimport numpy")
    (made.folder / "mlml/data/extra.py").write_text("SCALE = 200\n")
    made.repro("prepare@digits")
    assert made.lock()["prepare@digits"]["outs"] != before
    told = json.loads(why("data/prepared/digits", "--json"))
    step = told["steps"]["prepare@digits"]
    assert (step["dirty"], step["faults"]) == (True, [])
    assert "+SCALE = 200" in step["patch"]
    assert [file["path"] for file in step["code"] if file["md5"] != file["in_commit"]] == [
        "mlml/data/sources/digits.py"
    ]
    assert "| +SCALE = 200" in why("data/prepared/digits")
    (made.folder / "mlml/data/extra.py").unlink()
    made.run("git", "checkout", "-q", ".")
    printed = made.run("mlml", "why", "data/prepared/digits", "--reproduce", "--run")
    assert "identical" in printed.splitlines()
    # the earlier run is told from MLflow alone
    told = json.loads(why(clean, "--json"))
    assert "the workspace has moved on since" in told["faults"][0]
    first = told["steps"][told["first"]]
    assert (first["dirty"], first["outputs"]["data/prepared/digits"]) == (False, before[0]["md5"])
    assert first["command"] == made.lock()["prepare@digits"]["cmd"]
    assert [item["path"] for item in first["inputs"]] == ["data/checked", "data/raw"]


def test_what_was_not_kept_cannot_be_made_again(made, why):
    for patch in (made.folder / ".mlml").rglob("uncommitted.patch"):
        patch.unlink()
    assert "kept none of them" in why("data/prepared/digits")
    printed = why("data/prepared/digits", "--reproduce", code=2)
    assert "cannot be made again: the run was made with uncommitted changes" in printed
    assert len(printed.splitlines()) == 1


def test_a_run_that_says_less_than_it_read_is_found_out(made, why, monkeypatch):
    """Its tags say that nothing was uncommitted, or name a commit that nobody has."""
    [file] = (made.folder / ".mlml/runs/prepare@digits").glob(f"{made_key(made, 'prepare@digits')}/{Record.FILE}")
    text = file.read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")  # only the record tells
    try:
        file.write_text(text.replace('"git.dirty": "true"', '"git.dirty": "false"'))
        printed = why("data/prepared/digits")
        assert (
            "! the run says that nothing was uncommitted, yet its commit has other mlml/data/sources/digits.py"
            in printed
        )
        file.write_text(re.sub(r'"git.commit": "\w+"', f'"git.commit": "{"0" * 40}"', text))
        assert f"commit {'0' * 40} is not in this repository" in why("data/prepared/digits")
        assert "cannot be made again: commit 0000" in why("data/prepared/digits", "--reproduce", code=2)
    finally:
        file.write_text(text)
