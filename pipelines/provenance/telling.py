"""A chain as text for a terminal, and as JSON."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from mlml.tracking.run import flatten
from pipelines.provenance.chain import UNRECORDED, Chain, CodeFile, Step
from pipelines.provenance.runs import Run

PATCH_LINES = 40
FAULT = "! "


def text(chain: Chain, all_code: bool = False, whole_patch: bool = False) -> Iterator[str]:
    """Tell a chain line by line: the value, and under each stage what it read, down to the raw data."""
    question = chain.question
    yield f"{question.asked}: {value(question.value)}"
    yield f"  {question.about}"
    yield from (f"  {FAULT}{fault}" for fault in chain.faults)
    yield from _told(chain, chain.first, "  ", set(), all_code, whole_patch)
    count = len(chain.faults) + sum(len(step.faults) for step in chain.steps.values())
    if chain.holds:
        yield f"holds: {len(chain.steps)} stages; files, params.yaml and code are as dvc.lock and the runs say"
    else:
        yield f"does not hold as it is now: {count} lines begin with '{FAULT.strip()}'"


def as_json(chain: Chain) -> dict[str, Any]:
    """Tell the same as JSON; `steps` go from the value down, and `inputs` name the steps that made them."""
    question = chain.question
    return {
        "asked": question.asked,
        "about": question.about,
        "value": question.value,
        "holds": chain.holds,
        "faults": chain.faults,
        "first": chain.first,
        "steps": {name: _step_json(step) for name, step in chain.steps.items()},
    }


def value(given: Any) -> str:
    """Write a value: a mean with its interval and seeds, or md5s of files."""
    if not isinstance(given, dict):
        return "not there" if given is None else str(given)
    if "mean" not in given:
        return ", ".join(f"{md5 or 'not there'}" if len(given) == 1 else f"{k} {md5}" for k, md5 in given.items())
    interval = "" if given.get("interval95") is None else f" ± {given['interval95']!r}"
    seeds = [f"{key.replace('_', ' ')}: {number!r}" for key, number in given.items() if key.startswith("seed_")]
    return f"{given['mean']!r}{interval}" + (f" ({', '.join(seeds)})" if seeds else "")


def _told(chain: Chain, name: str, pad: str, said: set[str], all_code: bool, whole_patch: bool) -> Iterator[str]:
    """One step and, under it, those of its inputs; a step that stands above is only named."""
    step = chain.steps[name]
    if name in said:
        yield f"{pad}<- {name} (above)"
        return
    said.add(name)
    yield f"{pad}<- {name}"
    pad += "   "
    yield from (f"{pad}{FAULT}{fault}" for fault in step.faults)
    yield from (f"{pad}{line}" for line in _runs(step))
    yield f"{pad}command  {step.making.command}"
    yield from (f"{pad}{line}" for line in _commit(step, whole_patch))
    for key, given in flatten(step.making.parameters).items():
        yield f"{pad}param    {key}: {given}"
    yield from (f"{pad}{line}" for line in _code(step, all_code))
    for read in step.inputs:
        origin = "" if read.steps else " (raw data)" if read.raw else " (no stage writes there)"
        yield f"{pad}input    {read.path}  md5 {read.md5}{origin}"
        for maker in read.steps:
            yield from _told(chain, maker, f"{pad}  ", said, all_code, whole_patch)


def _runs(step: Step) -> Iterator[str]:
    if step.making.stage in UNRECORDED:
        yield f"run      none: {UNRECORDED[step.making.stage]}"
    elif step.run is None:
        yield f"run      none known of key {step.making.key}"
    else:
        yield f"run      {_run(step.run)}, key {step.making.key}"
        others = [run for run in step.runs if run is not step.run and run.id != step.run.id]
        yield from (f"         also of this key: {_run(run)}" for run in others)
        about = {"device": step.run.tags.get("device")} | {
            key.removeprefix("version."): given for key, given in step.run.tags.items() if key.startswith("version.")
        }
        yield "on       " + ", ".join(f"{key} {given}" for key, given in about.items() if given)


def _run(run: Run) -> str:
    started = datetime.fromtimestamp(run.started / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    return f"{run.id or 'not sent to MLflow yet'} {run.status} {started}"


def _commit(step: Step, whole_patch: bool) -> Iterator[str]:
    if step.run is None or not step.run.commit:
        return
    yield f"commit   {step.run.commit}" + (" with uncommitted changes" if step.run.dirty else "")
    if step.patch is not None:
        lines = step.patch.decode(errors="replace").splitlines()
        shown = lines if whole_patch else lines[:PATCH_LINES]
        yield from (f"         | {line}" for line in shown)
        if len(lines) > len(shown):
            yield f"         | ... {len(lines) - len(shown)} more lines: --diff shows them"


def _code(step: Step, all_code: bool) -> Iterator[str]:
    if not step.code:
        return
    known = step.run is not None and any(file.committed for file in step.code)
    differ = [file for file in step.code if file.md5 != file.committed]
    than = f", {len(differ)} of them other than in the commit" if known else ""
    yield f"code     {len(step.code)} files and folders{than}"
    for file in step.code if all_code else differ if known else ():
        yield f"         {file.path}  md5 {file.md5}{_state(file, known)}"


def _state(file: CodeFile, known: bool) -> str:
    if not known or file.md5 == file.committed:
        return ""
    return f" (in the commit {file.committed})" if file.committed else " (not in the commit)"


def _step_json(step: Step) -> dict[str, Any]:
    run = step.run
    return {
        "stage": step.making.stage,
        "key": step.making.key,
        "in_dvc_lock": step.making.locked,
        "command": step.making.command,
        "params": json.loads(json.dumps(step.making.parameters, default=str)),
        "outputs": dict(step.making.outputs),
        "run": run.id if run else None,
        "runs": [
            {
                "id": known.id,
                "name": known.name,
                "status": known.status,
                "started": known.started,
                "tags": dict(known.tags),
                "metrics": dict(known.metrics),
            }
            for known in step.runs
        ],
        "commit": run.commit if run else None,
        "dirty": run.dirty if run else None,
        "patch": step.patch.decode(errors="replace") if step.patch is not None else None,
        "code": [{"path": f.path, "md5": f.md5, "in_commit": f.committed, "now": f.now} for f in step.code],
        "inputs": [{"path": i.path, "md5": i.md5, "now": i.now, "made_by": list(i.steps)} for i in step.inputs],
        "faults": step.faults,
    }
