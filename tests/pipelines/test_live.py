import io
import json
import logging
import time
from pathlib import Path

import pytest
from rich.console import Console

from pipelines import live
from pipelines.reproduce import Result, StageRun


def drawn(result, expected, height=40, began=None):
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(live.table(result, expected, time.monotonic() if began is None else began, height))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def result(tmp_path):
    states = {"check": "unchanged", "a": "ran", "b": "running", "c": "failed", "d": "skipped", "e": "waiting"}
    stages = {name: StageRun(name, tmp_path / f"{name}.log", tmp_path / name, state) for name, state in states.items()}
    stages["a"].seconds = 75.2
    stages["b"].began = time.monotonic() - 30
    stages["c"].code, stages["d"].cause = 3, "c"
    return Result(stages)


def test_a_running_stage_shows_what_it_does_and_what_is_left(result, tmp_path):
    status = {"task": "train seed 1", "step": 40, "steps": 100, "seconds_left": 61.0, "note": "train/loss 0.5"}
    (tmp_path / "b").write_text(json.dumps(status))
    [row] = [line for line in drawn(result, {}) if line.startswith("b ")]
    assert row.split() == ["b", "running", "0:30", "train", "seed", "1", "40/100", "train/loss", "0.5", "1:01"]
    # what it took before counts the seeds and steps to come, too
    [row] = [line for line in drawn(result, {"b": 330.0}) if line.startswith("b ")]
    assert row.endswith("5:00")
    # unless it takes longer than then
    [row] = [line for line in drawn(result, {"b": 10.0}) if line.startswith("b ")]
    assert row.endswith("1:01")


def test_every_state_has_its_row(result):
    rows = drawn(result, {}, began=time.monotonic() - 61)
    assert [row.split()[:2] for row in rows[1:-1]] == [
        ["check", "unchanged"],
        ["a", "ran"],
        ["b", "running"],
        ["c", "failed"],
        ["d", "skipped"],
        ["e", "waiting"],
    ]
    assert rows[2].split() == ["a", "ran", "1:15"]
    assert rows[3].split() == ["b", "running", "0:30", "starting"]
    assert rows[-1] == "4/6 stages settled in 1:01"


def test_a_low_terminal_keeps_what_runs_and_what_failed(result):
    rows = drawn(result, {}, height=6)
    assert [row.split()[0] for row in rows[1:-1]] == ["b", "c"]
    assert rows[-1].endswith("4 rows not shown")


def test_the_summary_names_what_failed_and_why_the_rest_did_not_run(result):
    result.stages["e"].state = "not started"
    log = result.stages["c"].log
    assert live.summary(result) == [
        f"failed: c (exit code 3); its log: {log}",
        "skipped: d, since c failed",
        "not started: e; 'mlml repro --keep-going' goes on after a failure",
        "1 ran, 1 unchanged, 1 failed",
    ]


def test_in_a_terminal_log_lines_do_not_break_the_table(result, capfd):
    handler = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(handler)
    try:
        console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
        with live.shown(result, {}, console) as changed:
            logging.getLogger("pipelines.output").warning("a stage's line")
            logging.getLogger("mlml").warning("a warning")
            result.stages["e"].state = "ran"
            changed()
        logging.getLogger("pipelines.output").warning("afterwards")
    finally:
        logging.getLogger().removeHandler(handler)
    assert handler.stream.getvalue().splitlines() == ["a warning", "afterwards"]
    assert "5/6 stages settled" in console.file.getvalue()


def test_elsewhere_nothing_is_drawn(result):
    console = Console(file=io.StringIO(), force_terminal=False)
    with live.shown(result, {}, console) as changed:
        changed()
    assert console.file.getvalue() == ""


def test_half_a_status_is_no_status(result, tmp_path):
    Path(tmp_path / "b").write_text('{"task": "tr')
    assert drawn(result, {})[3].split() == ["b", "running", "0:30", "starting"]
