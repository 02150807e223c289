import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipelines.graph import Graph, TargetError
from pipelines.reproduce import Reproduction
from pipelines.slots import Slots
from stages._steps import Steps

ROOT = Path(__file__).resolve().parents[2]

# a stage leaves its name in `ran`, and whatever stands in the file that it depends on is shell to run
COMMAND = "echo {0} >> ran; . ./{0}.in; cat {1} > {0}.out; echo {0} >> {0}.out"


def diamond(workspace):
    """a -> b, c -> d; and e alone."""
    upstream = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": []}
    commands = {
        name: COMMAND.format(name, " ".join(f"{other}.out" for other in others) or "/dev/null")
        for name, others in upstream.items()
    }
    workspace.declare(**{name: (commands[name], upstream[name]) for name in upstream})


def reproduce(workspace, jobs=2, **options):
    """Run, and return the result with the stages that really ran."""
    log = workspace.folder / "ran"
    log.unlink(missing_ok=True)
    with Graph() as graph:
        run = Reproduction(graph, workspace.folder, workspace.folder / ".mlml", Slots(jobs), **options)
        if run.survey():
            run.run(Steps(), {})
    return run.result, sorted(log.read_text().split()) if log.exists() else []


def states(result):
    return {name: stage.state for name, stage in result.stages.items()}


def serial_lock(workspace):
    """dvc.lock as a serial run from nothing leaves it."""
    kept = {path: path.read_bytes() for path in workspace.folder.glob("*.out")}
    before = (workspace.folder / "dvc.lock").read_bytes()
    (workspace.folder / "dvc.lock").unlink()
    workspace.dvc("repro", "-q", "--force")
    serial = (workspace.folder / "dvc.lock").read_bytes()
    (workspace.folder / "dvc.lock").write_bytes(before)
    assert {path: path.read_bytes() for path in kept} == kept
    return serial


def test_everything_from_nothing_is_as_a_serial_run(workspace):
    diamond(workspace)
    # b waits for e, which comes last in the serial order: side by side they meet, one after the other never
    (workspace.folder / "b.in").write_text("while [ ! -e e.out ]; do sleep 0.02; done")
    result, ran = reproduce(workspace)
    assert set(states(result).values()) == {"ran"}
    assert ran == ["a", "b", "c", "d", "e"]
    assert "Running stage 'd'" in result.stages["d"].log.read_text()
    assert (workspace.folder / "d.out").read_text().split() == ["a", "b", "a", "c", "d"]
    (workspace.folder / "b.in").write_text("")  # for the serial run
    reproduce(workspace)
    assert (workspace.folder / "dvc.lock").read_bytes() == serial_lock(workspace)
    assert workspace.dvc("status") == "Data and pipelines are up to date.\n"


def test_only_what_changed_runs_and_what_gets_other_inputs(workspace):
    diamond(workspace)
    reproduce(workspace)
    assert reproduce(workspace)[1] == []
    (workspace.folder / "b.in").write_text("# changed")  # b runs, and makes the same as before
    result, ran = reproduce(workspace)
    assert ran == ["b"]
    assert states(result) == {"a": "unchanged", "b": "ran", "c": "unchanged", "d": "unchanged", "e": "unchanged"}
    (workspace.folder / "b.in").write_text("trap 'echo more >> b.out' EXIT")
    assert reproduce(workspace)[1] == ["b", "d"]
    (workspace.folder / "b.in").write_text("# changed")
    result, ran = reproduce(workspace)
    assert ran == []
    assert result.named("restored") == ["b", "d"]  # DVC's run cache has both


def test_targets_and_force(workspace):
    diamond(workspace)
    assert reproduce(workspace, targets=["b"])[1] == ["a", "b"]
    assert reproduce(workspace, targets=["b"], force=True)[1] == ["a", "b"]
    assert reproduce(workspace, targets=["c.out"])[1] == ["c"]
    with pytest.raises(TargetError, match=r"'bb' names no stage; did you mean 'b'\?"):
        reproduce(workspace, targets=["bb"])


def test_a_failure_stops_what_depends_on_it(workspace):
    diamond(workspace)
    (workspace.folder / "b.in").write_text("echo what went wrong; exit 3")
    result, ran = reproduce(workspace, jobs=1, keep_going=True)
    assert ran == ["a", "b", "c", "e"]
    assert states(result) == {"a": "ran", "b": "failed", "c": "ran", "d": "skipped", "e": "ran"}
    assert (result.stages["d"].cause, result.stages["b"].code, result.ok) == ("b", 3, False)
    assert "what went wrong" in result.stages["b"].log.read_text()
    assert list(workspace.lock()) == ["a", "c", "e"]


def test_after_a_failure_that_was_mended_the_lock_is_as_if_it_had_never_been(workspace):
    diamond(workspace)
    (workspace.folder / "b.in").write_text("[ -e mended ] || exit 3")
    assert not reproduce(workspace, keep_going=True)[0].ok
    (workspace.folder / "mended").touch()
    assert reproduce(workspace)[1] == ["b", "d"]
    assert (workspace.folder / "dvc.lock").read_bytes() == serial_lock(workspace)
    assert not reproduce(workspace)[0].named("waiting")
    assert not (workspace.folder / ".mlml" / "order.json").exists()


def test_a_failure_starts_nothing_more(workspace):
    diamond(workspace)
    (workspace.folder / "a.in").write_text("exit 3")
    result, ran = reproduce(workspace, jobs=1)
    assert ran == ["a"]
    assert states(result) == {
        **dict.fromkeys(("b", "c", "d"), "skipped"),
        "a": "failed",
        "e": "not started",
    }


def test_a_stage_that_another_dvc_works_on_is_waited_for(workspace):
    diamond(workspace)
    (workspace.folder / "e.in").write_text("while [ ! -e go ]; do sleep 0.02; done")
    other = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "-q", "e"], cwd=workspace.folder)
    wait_for((workspace.folder / "ran").exists, other)
    (workspace.folder / "ran").rename(workspace.folder / "first")
    with Graph() as graph:
        run = Reproduction(graph, workspace.folder, workspace.folder / ".mlml", Slots(1), ["e"])
        assert run.survey()
        log = run.result.stages["e"].log

        def let_go():
            wait_for(lambda: log.exists() and "is busy, it is being blocked by" in log.read_text(), other)
            (workspace.folder / "go").touch()

        helper = threading.Thread(target=let_go)
        helper.start()
        run.run(Steps(), {})
        helper.join()
    assert other.wait(60) == 0
    assert states(run.result) == {"e": "unchanged"}
    assert not (workspace.folder / "ran").exists()


def words(process):
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended
        return []


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)


PROGRAM = textwrap.dedent("""
    import sys
    from pathlib import Path
    from pipelines.coordinator import _ended_by_signals
    from pipelines.graph import Graph
    from pipelines.reproduce import Reproduction
    from pipelines.slots import Slots
    from stages._steps import Steps
    folder = Path.cwd()
    with _ended_by_signals(), Graph() as graph:
        run = Reproduction(graph, folder, folder / ".mlml", Slots(2))
        run.survey()
        try:
            run.run(Steps(), {})
        finally:
            print({name: stage.state for name, stage in run.result.stages.items()}, flush=True)
""")


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_coordinator_leaves_no_orphan(workspace, kill):
    diamond(workspace)
    for name in ("a", "e"):
        (workspace.folder / f"{name}.in").write_text(f"touch {name}.began; exec sleep 100")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    coordinator = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=workspace.folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    wait_for(lambda: all((workspace.folder / f"{name}.began").exists() for name in ("a", "e")), coordinator)
    below = psutil.Process(coordinator.pid).children(recursive=True)
    dvcs = [process for process in below if process.is_running() and "dvc" in words(process)]
    assert len(dvcs) == 2
    coordinator.send_signal(kill)
    said = coordinator.communicate(timeout=60)[0]
    if kill == signal.SIGKILL:
        psutil.wait_procs(dvcs, timeout=60)  # stages of this project end with their dvc; these are shells
        assert not any(process.is_running() for process in dvcs)
        for process in below:
            if process.is_running():
                process.kill()
    else:
        assert coordinator.returncode != 0
        assert "'a': 'failed', 'b': 'skipped'" in said
        assert not any(process.is_running() for process in below)
    for name in ("a", "e"):
        (workspace.folder / f"{name}.in").write_text("")
    assert set(states(reproduce(workspace)[0]).values()) == {"ran"}
    assert list(workspace.lock()) == ["a", "b", "c", "d", "e"]
