import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mlml.tracking.run import Run
from pipelines.commands import plan as command
from pipelines.graph import Graph, TargetError
from pipelines.plan import Step, estimate, plan
from pipelines.reasons import (
    AlwaysRuns,
    ChangedCommand,
    ChangedFile,
    ChangedOutput,
    ChangedParameter,
    NeverRun,
    Upstream,
    parameter_changes,
)
from pipelines.slots import Slots

PARAMS = "a: {one: {rate: 0.5, steps: 3}}\nb: 1\n"


STAGES = {
    "a": {
        "foreach": {"one": 1},
        "do": {"cmd": "cp a.in made/a.out", "deps": ["a.in"], "params": ["a.one"], "outs": ["made/a.out"]},
    },
    "b": {
        "cmd": "head -c1 made/a.out > made/b.out",
        "deps": ["made/a.out"],
        "params": ["b"],
        "outs": ["made/b.out"],
    },
    "c": {"cmd": "cp made/b.out c.out", "deps": ["made/b.out", "c.in"], "outs": ["c.out"]},
    "all": {"cmd": "cat made/* > all.out", "deps": ["made"], "outs": ["all.out"]},
}
"""`a` keeps what a.in says, `b` only its first letter, and `all` reads the folder of both."""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A repository in which every stage has run, to be copied."""
    folder = tmp_path_factory.mktemp("done")
    for name in (".dvc", "made"):
        (folder / name).mkdir()
    YAML().dump({"stages": STAGES}, folder / "dvc.yaml")
    texts = {"params.yaml": PARAMS, "a.in": "alpha", "c.in": "c", ".dvc/config": "[core]\nanalytics = false\n"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "repro", "-q"]):
        subprocess.run(words, cwd=folder, check=True)
    return folder


@pytest.fixture
def chain(done, workspace):
    shutil.copytree(done, workspace.folder, dirs_exist_ok=True)
    return workspace


def planned(*targets) -> dict[str, Step]:
    with Graph() as graph:
        return {step.stage: step for step in plan(graph, targets)}


def actions(*targets) -> dict[str, str]:
    return {name: step.action for name, step in planned(*targets).items()}


def tree(folder) -> dict[str, tuple]:
    """Every file and folder, with content and time of change."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in paths
    }


def edit(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


def test_what_was_never_run(workspace):
    workspace.declare(a=("echo a > a.out", []), b=("cp a.out b.out", ["a"]))
    steps = planned()
    assert steps["a"] == Step("a", "run", (NeverRun(),))
    assert steps["b"] == Step("b", "run", (NeverRun(), Upstream("a")))
    assert not (workspace.folder / "dvc.lock").exists()


def test_every_reason_once(chain):
    assert set(actions().values()) == {"unchanged"}
    edit("params.yaml", "rate: 0.5", "rate: 0.25, momentum: 0.9")
    edit("params.yaml", ", steps: 3", "")
    edit("dvc.yaml", "head -c1", "head -c2")
    Path("c.in").unlink()
    Path("all.out").write_text("by hand")
    before = tree(chain.folder)
    steps = planned()
    assert tree(chain.folder) == before
    assert steps["a@one"] == Step(
        "a@one",
        "run",
        (
            ChangedParameter("a.one.rate", "modified", 0.5, 0.25),
            ChangedParameter("a.one.momentum", "new", new=0.9),
            ChangedParameter("a.one.steps", "deleted", old=3),
        ),
    )
    command = "head -c1 made/a.out > made/b.out"
    assert steps["b"] == Step("b", "run", (ChangedCommand(command, command.replace("1", "2")), Upstream("a@one")))
    assert steps["c"] == Step("c", "run", (ChangedFile("c.in", "deleted"), Upstream("b")))
    assert steps["all"] == Step("all", "run", (ChangedOutput("all.out", "modified"), Upstream("a@one"), Upstream("b")))
    assert actions("b") == {"a@one": "run", "b": "run"}
    assert actions("one") == {"a@one": "run"}
    with pytest.raises(TargetError, match="names no stage"):
        planned("two")


def test_what_hangs_on_a_stage_that_runs_may_run(chain):
    Path("a.in").write_text("another")
    assert planned() == {
        "a@one": Step("a@one", "run", (ChangedFile("a.in", "modified"),)),
        "b": Step("b", "may run", (Upstream("a@one"),)),
        "c": Step("c", "may run", (Upstream("b"),)),
        "all": Step("all", "may run", (Upstream("a@one"), Upstream("b"))),
    }
    chain.dvc("repro", "-q")  # b's output is the same as before: c does not run
    assert set(actions().values()) == {"unchanged"}


def test_the_run_cache_is_asked_by_the_inputs_that_will_be_there(chain):
    Path("a.in").write_text("beta")
    assert actions() == {"a@one": "run", "b": "may run", "c": "may run", "all": "may run"}
    chain.dvc("repro", "-q")
    Path("a.in").write_text("alpha")  # every stage but the last, which reads a folder, can be told beforehand
    steps = planned()
    assert {name: step.action for name, step in steps.items()} == {
        "a@one": "restore",
        "b": "restore",
        "c": "restore",
        "all": "may run",
    }
    assert steps["b"].reasons == (ChangedFile("made/a.out", "modified"),)
    printed = chain.dvc("repro")
    assert printed.count("is cached - skipping run") == 4
    assert "Running stage" not in printed


def test_an_output_that_is_lost_is_restored_or_made_again(chain):
    Path("made/a.out").unlink()
    steps = planned()
    assert steps.pop("a@one") == Step("a@one", "restore", (ChangedOutput("made/a.out", "missing"),))
    assert {name: step.action for name, step in steps.items()} == {"b": "unchanged", "c": "unchanged", "all": "may run"}
    for path in sorted(Path(".dvc/cache/files").rglob("*")):
        if path.is_file():
            path.chmod(0o644)
            path.unlink()
    steps = planned()
    assert steps["a@one"].action == "run"
    assert steps["b"] == Step("b", "run", (ChangedOutput("made/b.out", "not in cache"), Upstream("a@one")))


def test_an_unreadable_entry_of_the_run_cache_stays(chain):
    Path("a.in").write_text("beta")
    chain.dvc("repro", "-q", "a@one")
    for path in Path(".dvc/cache/runs").rglob("*"):
        if path.is_file():
            path.write_text("{")
    Path("a.in").write_text("alpha")
    before = tree(chain.folder)
    assert actions("one") == {"a@one": "run"}
    assert tree(chain.folder) == before


def test_the_check_of_the_declaration_makes_always_the_same(workspace):
    command = "mkdir -p data; echo valid > data/checked"
    check = {"cmd": command, "deps": ["params.yaml"], "outs": [{"data/checked": {"cache": False}}]}
    after = {"cmd": "cp data/checked after", "deps": ["data/checked"], "outs": ["after"]}
    always = {"cmd": "date", "always_changed": True, "deps": ["after"]}
    YAML().dump({"stages": {"check": check, "after": after, "always": always}}, Path("dvc.yaml"))
    Path("params.yaml").write_text("a: 1")
    workspace.dvc("repro", "-q")
    Path("params.yaml").write_text("a: 2")
    Path("data/checked").unlink()
    steps = planned()
    assert steps["check"].action == "run"
    assert steps["after"].action == "unchanged"
    assert steps["always"] == Step("always", "run", (AlwaysRuns(),))


def test_parameters_are_compared_by_their_dotted_paths():
    old = {"a": {"x": 1, "y": {"z": [1, 2]}, "gone": True}, "whole": {"k": 1}}
    new = {"a": {"x": 1.5, "y": {"z": (1, 2), "extra": None}}, "whole": "text"}
    assert list(parameter_changes("a", old, new)) == [
        ChangedParameter("a.x", "modified", 1, 1.5),
        ChangedParameter("a.y.extra", "new"),
        ChangedParameter("a.gone", "deleted", old=True),
    ]
    assert list(parameter_changes("whole", old, new)) == [ChangedParameter("whole", "modified", {"k": 1}, "text")]
    assert list(parameter_changes("neither", old, new)) == []
    assert str(ChangedParameter("a.x", "modified", 1, 1.5)) == "a.x: 1 -> 1.5"


def test_how_long_a_run_takes(workspace):
    upstream = {"a": [], "b": ["a"], "c": ["a"], "d": ["a"], "e": ["b", "c", "d"], "f": []}
    workspace.declare(**{name: (f"echo > {name}.out", others) for name, others in upstream.items()})
    with Graph() as graph:
        steps = plan(graph, [])
        seconds = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0}

        def of(jobs, steps=steps, seconds=seconds):
            return estimate(graph, steps, seconds, Slots(jobs))

        one = of(1)
        assert (one.serial, one.parallel, one.critical, one.unknown) == (15.0, 15.0, 10.0, ("f",))
        # a: 0-1; b 1-3 and c 1-4 side by side; d 3-7; e 7-12
        assert of(2).parallel == 12.0
        assert of(3).parallel == of(8).parallel == 10.0
        # nothing is waited for that does not run, but what lies behind it is
        without = [step for step in steps if step.stage in ("a", "e", "f")]
        assert (of(3, without).parallel, of(3, without).critical) == (6.0, 6.0)
        assert of(2, [Step("a", "restore"), Step("b", "unchanged")]).serial == 0.0


def test_a_gpu_is_taken_by_one_stage_at_a_time(workspace):
    workspace.declare(a=("echo > a.out", []), b=("echo > b.out", []), c=("echo > c.out", []))
    declared = YAML(typ="safe").load(Path("dvc.yaml"))
    for name in "ab":
        declared["stages"][name]["meta"] = {"takes": "gpu"}
    YAML().dump(declared, Path("dvc.yaml"))
    with Graph() as graph:
        steps = plan(graph)
        assert estimate(graph, steps, dict.fromkeys("abc", 2.0), Slots(3, ("0",))).parallel == 4.0
        assert estimate(graph, steps, dict.fromkeys("abc", 2.0), Slots(3, ("0", "1"))).parallel == 2.0


def test_a_plan_in_a_fresh_clone_makes_no_store(chain, tmp_path):
    chain.run("git", "add", "-A")
    chain.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "all")
    clone = tmp_path / "clone"
    chain.run("git", "clone", "-q", ".", str(clone))
    os.chdir(clone)
    assert set(actions().values()) == {"run"}
    assert not (clone / ".mlml").exists()
    assert chain.run("git", "-C", str(clone), "status", "--porcelain") == ""


DECLARED = """
threads: 1
data: {digits: {source: digits}}
protocol:
  encoder: &encoder {network: mlp, hidden_widths: [16]}
  train: &train {steps: 12, batch_size: 64}
pretext:
  cold: {method: simclr, dataset: digits, encoder: *encoder, train: *train, temperature: 0.5}
  hot: {method: simclr, dataset: digits, encoder: *encoder, train: *train, temperature: 0.9}
supervised: {}
probe: {}
generative: {}
search: {}
"""


@pytest.fixture
def declared(workspace, monkeypatch):
    """A valid declaration over stages that are quickly done, and how long they took."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    Path("params.yaml").write_text(DECLARED)
    stage = {"cmd": "echo ${key} > ${key}.out", "params": ["pretext.${key}"], "outs": ["${key}.out"]}
    both = {"cmd": "cat cold.out hot.out > both.out", "deps": ["cold.out", "hot.out"], "outs": ["both.out"]}
    YAML().dump({"stages": {"pretext": {"foreach": "${pretext}", "do": stage}, "both": both}}, Path("dvc.yaml"))
    workspace.dvc("repro", "-q")
    folder = Path(".mlml/runs/pretext@cold") / ("a" * 16)
    settings = {"pretext.cold": {"method": "simclr"}}
    with Run.open(folder, "cold", "mlml", {"dvc.stage": "pretext@cold"}, settings) as run:
        run.log("system/seconds", 80.0)
    return workspace


def mlml_plan(capsys, *words) -> tuple[str, int]:
    """What `mlml plan` prints, and its exit code."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    code = 0
    try:
        command.run(parser.parse_args(words))
    except SystemExit as error:
        code = error.code
    told = capsys.readouterr()
    return told.out + told.err, code


def test_the_command_line(declared, capsys):
    assert mlml_plan(capsys) == ("everything is up to date (3 stages)\n", 0)
    edit("params.yaml", "0.9", "0.2")
    before = tree(declared.folder)
    printed, code = mlml_plan(capsys, "--jobs", "2")
    assert code == 0
    assert printed.splitlines() == [
        "run      pretext@hot     1:20  pretext.hot.temperature: 0.9 -> 0.2",
        "may run  both         unknown  if pretext@hot makes something new",
        "1 to run, 1 that may run, 1 up to date",
        "time: at least 1:20 one after another, 1:20 with 2 jobs, 1:20 for the longest chain; unknown for both",
    ]
    told, _ = mlml_plan(capsys, "--jobs", "2", "--json")
    assert tree(declared.folder) == before
    told = json.loads(told)
    assert told["stages"][1] == {
        "stage": "pretext@hot",
        "action": "run",
        "reasons": [
            {"kind": "parameter", "path": "pretext.hot.temperature", "change": "modified", "old": 0.9, "new": 0.2}
        ],
        "seconds": 80.0,
    }
    assert told["stages"][2]["reasons"] == [{"kind": "upstream", "stage": "pretext@hot"}]
    assert told["seconds"] == {"serial": 80.0, "parallel": 80.0, "critical": 80.0, "jobs": 2, "unknown": ["both"]}


def test_faults_of_the_command_line(declared, capsys):
    printed, code = mlml_plan(capsys, "hott")
    assert code == 2
    assert printed.startswith("mlml plan: 'hott' names no stage; did you mean 'hot'?")
    assert mlml_plan(capsys, "--jobs", "0") == ("mlml plan: --jobs must be at least 1; got 0\n", 2)
    Path("dvc.lock").write_text("stages: {")
    printed, code = mlml_plan(capsys)
    assert code == 2
    assert printed.startswith("mlml plan: ")
    edit("params.yaml", "temperature: 0.9", "temperatur: 0.9")
    printed, code = mlml_plan(capsys)
    assert code == 2
    assert "pretext.hot.temperatur: unknown key" in printed
