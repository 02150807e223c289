"""Show which stages would run, why, and for how long; nothing is changed."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stages import _lineage
from stages.check import read_or_exit

if TYPE_CHECKING:
    from pipelines.plan import Estimate, Step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare targets and options."""
    parser.add_argument("targets", nargs="*", help="stages, groups of stages, or experiments; default: everything")
    parser.add_argument("-j", "--jobs", type=int, help="estimate for so many stages at once; default: as 'mlml repro'")
    parser.add_argument("--json", action="store_true", help="print JSON, as docs/commands.md describes it")


def run(options: argparse.Namespace) -> None:
    """Exit code 0; 2 when a target or the declaration has a fault."""
    declared = read_or_exit()
    if options.jobs is not None and options.jobs < 1:
        raise SystemExit(_fault(f"--jobs must be at least 1; got {options.jobs}"))
    from dvc.exceptions import DvcException

    from pipelines.durations import durations
    from pipelines.graph import Graph, TargetError
    from pipelines.plan import WILL_WORK, estimate, plan
    from pipelines.slots import Slots, default_jobs, gpus

    try:
        with Graph() as graph:
            steps = plan(graph, options.targets)
            seconds: Mapping[str, float] = {}
            if any(step.action in WILL_WORK for step in steps):
                seconds = durations(_lineage.store_root(), [step.stage for step in steps])
            devices = gpus()
            slots = Slots(options.jobs or default_jobs(declared.threads, len(devices)), devices)
            expected = estimate(graph, steps, seconds, slots)
    except (TargetError, DvcException) as error:
        raise SystemExit(_fault(str(error))) from None
    print(
        json.dumps(as_json(steps, seconds, expected), indent=2, default=str)
        if options.json
        else as_text(steps, seconds, expected)
    )


def as_json(steps: "Sequence[Step]", seconds: Mapping[str, float], expected: "Estimate") -> dict[str, Any]:
    """Return the form that docs/commands.md describes."""
    return {
        "stages": [
            {
                "stage": step.stage,
                "action": step.action,
                "reasons": [{"kind": reason.kind, **asdict(reason)} for reason in step.reasons],
                "seconds": seconds.get(step.stage),
            }
            for step in steps
        ],
        "seconds": asdict(expected),
    }


def as_text(steps: "Sequence[Step]", seconds: Mapping[str, float], expected: "Estimate") -> str:
    """Return a line for each reason, and what all takes; one line when nothing would be done."""
    from mlml.status import clock

    busy = [step for step in steps if step.action != "unchanged"]
    if not busy:
        return f"everything is up to date ({len(steps)} stages)"
    width = max(len(step.stage) for step in busy)
    lines = []
    for step in busy:
        takes = "" if step.action == "restore" else clock(seconds[step.stage]) if step.stage in seconds else "unknown"
        head = f"{step.action:<7}  {step.stage:<{width}}  {takes:>7}"
        for reason in _sentences(step):
            lines.append(f"{head}  {reason}")
            head = " " * len(head)
    counts = {word: sum(step.action == word for step in steps) for word in ("run", "may run", "restore", "unchanged")}
    words = {
        "run": "to run",
        "may run": "that may run",
        "restore": "to restore from the cache",
        "unchanged": "up to date",
    }
    lines.append(", ".join(f"{count} {words[word]}" for word, count in counts.items() if count))
    if counts["run"] or counts["may run"]:
        lines.append(_time(expected))
    return "\n".join(lines)


def _sentences(step: "Step") -> list[str]:
    """Reasons of a stage; what stages before it may do counts only where nothing else makes it run."""
    from pipelines.reasons import Upstream

    own = [str(reason) for reason in step.reasons if not isinstance(reason, Upstream)]
    before = [reason.stage for reason in step.reasons if isinstance(reason, Upstream)]
    return own or [f"if {_some(before, 'or')} makes something new"]


def _some(names: Sequence[str], word: str) -> str:
    """Write the first few names, and how many more there are."""
    shown = [*names[:3], *([f"{len(names) - 3} more"] if len(names) > 3 else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {word} {shown[-1]}"


def _time(expected: "Estimate") -> str:
    from mlml.status import clock

    if not expected.serial:
        return "time: unknown"
    least = "at least " if expected.unknown else ""
    unknown = f"; unknown for {_some(expected.unknown, 'and')}" if expected.unknown else ""
    all_of_it = f"{least}{clock(expected.serial)} one after another"
    together = f"{clock(expected.parallel)} with {expected.jobs} job{'s' if expected.jobs > 1 else ''}"
    return f"time: {all_of_it}, {together}, {clock(expected.critical)} for the longest chain{unknown}"


def _fault(sentence: str) -> int:
    print(f"mlml plan: {sentence}", file=sys.stderr)
    return 2
