"""What a person sees of a run: in a terminal a table that changes, elsewhere a line for each thing that happens."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mlml import status
from mlml.status import clock
from pipelines.reproduce import Result, StageRun, State

STYLES: Mapping[State, str] = {
    "waiting": "dim",
    "running": "bold cyan",
    "unchanged": "dim green",
    "restored": "green",
    "ran": "green",
    "failed": "bold red",
    "skipped": "yellow",
    "not started": "dim",
}

_LEAST_NEWS: tuple[State, ...] = ("unchanged", "skipped", "not started", "restored", "ran", "waiting")
"""States whose rows are left out first where a terminal is too low for all."""


@contextmanager
def shown(
    result: Result, expected: Mapping[str, float], console: Console | None = None
) -> Iterator[Callable[[], None]]:
    """Show a run while the context lasts; yields what to call after a change.

    Args:
        result: changed by whoever runs the stages.
        expected: seconds that stages are expected to take, where that is known.
        console: to write to; standard output by default.
    """
    console = console or Console(file=sys.stdout)
    if not console.is_terminal:
        yield lambda: None  # log lines say it all
        return
    lines = logging.getLogger("pipelines")
    nowhere = logging.NullHandler()
    lines.addHandler(nowhere)
    lines.propagate = False  # the console's handlers are the root's; Prefect's are this logger's own
    began = time.monotonic()
    try:
        with Live(
            get_renderable=lambda: table(result, expected, began, console.height),
            console=console,
            refresh_per_second=4,
            transient=False,
        ) as live:
            yield live.refresh
    finally:
        lines.propagate = True
        lines.removeHandler(nowhere)


def table(result: Result, expected: Mapping[str, float], began: float, height: int) -> Group:
    """Draw the stages, in at most so many lines."""
    rows = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("stage", "state", "time", "now", "left"):
        rows.add_column(title, justify="right" if title in ("time", "left") else "left", no_wrap=True)
    kept = _rows_that_fit(result, height - 4)
    for name in kept:
        stage = result.stages[name]
        now, left = _progress(stage, expected.get(name))
        taken = _seconds(stage)
        rows.add_row(
            name,
            Text(stage.state, STYLES[stage.state]),
            clock(taken) if taken else "",
            now,
            clock(left) if left is not None else "",
        )
    return Group(rows, Text(_footer(result, kept, time.monotonic() - began), "dim"))


def summary(result: Result) -> list[str]:
    """Say how a run ended, a line for each thing worth knowing."""
    lines = []
    for name in result.named("failed"):
        stage = result.stages[name]
        lines.append(f"failed: {name} (exit code {stage.code}); its log: {stage.log}")
    lines += [f"skipped: {name}, since {result.stages[name].cause} failed" for name in result.named("skipped")]
    not_started = result.named("not started")
    if not_started:
        lines.append(f"not started: {', '.join(not_started)}; 'mlml repro --keep-going' goes on after a failure")
    counts = {state: len(result.named(state)) for state in ("ran", "restored", "unchanged", "failed")}
    lines.append(", ".join(f"{count} {state}" for state, count in counts.items() if count or state == "ran"))
    return lines


def _rows_that_fit(result: Result, height: int) -> list[str]:
    kept = list(result.stages)
    for state in _LEAST_NEWS:
        for name in [name for name in kept if result.stages[name].state == state]:
            if len(kept) <= max(1, height):
                return kept
            kept.remove(name)
    return kept


def _progress(stage: StageRun, expected: float | None) -> tuple[str, float | None]:
    """What a running stage does, and how many seconds are left of it: by what it took before, else by its own count."""
    if stage.state != "running":
        return "", None
    said = status.read(stage.status)
    left = None if expected is None else expected - _seconds(stage)
    if left is None or left <= 0:
        left = said.seconds_left if said else None
    if said is None:
        return "starting", left
    return (f"{said.task}  {said.step}/{said.steps}  {said.note}" if said.steps else said.task), left


def _seconds(stage: StageRun) -> float:
    return time.monotonic() - stage.began if stage.state == "running" else stage.seconds


def _footer(result: Result, kept: list[str], seconds: float) -> str:
    hidden = len(result.stages) - len(kept)
    settled = len(result.stages) - len(result.named("waiting", "running"))
    more = f", {hidden} rows not shown" if hidden else ""
    return f"{settled}/{len(result.stages)} stages settled in {clock(seconds)}{more}"
