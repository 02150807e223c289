"""What is asked: a file, a metric, a cell of the leaderboard or a run; its value, and which run of a stage made it."""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlml.config import suggest
from mlml.report import SCORE
from pipelines.provenance.digests import digest
from pipelines.provenance.making import Making, WhyError, makers
from pipelines.provenance.runs import Run, Runs, is_id

METRICS = Path("reports/metrics")


@dataclass(frozen=True)
class Question:
    """What is asked, with its answer's beginning.

    Attributes:
        asked: as the user wrote it.
        about: what that is, in words.
        making: the run of a stage that made it.
        measure: reads the value in any copy of the project; None where it is not.
        value: what `measure` gives here: a mapping of names to numbers or to md5s.
        run: where one run was asked for, that run.
        faults: what does not hold of the value itself.
    """

    asked: str
    about: str
    making: Making
    measure: Callable[[Path], Any]
    value: Any
    run: Run | None = None
    faults: list[str] = field(default_factory=list)


def ask(text: str, folder: Path, lock: Mapping[str, Making], runs: Runs) -> Question:
    """Find out what is asked.

    Args:
        text: a path; a path, ":" and a name in it; the id of a run or of a stage; or the beginning of a run's id.
        folder: the project.
        lock: what its dvc.lock holds.
        runs: what is known of runs.

    Raises:
        WhyError: it is none of these, or more than one thing.
    """
    # a path may be given from anywhere; a stage or an id is no path
    path, _, name = text.partition(":")
    if name:
        path = _inside(path, folder)
        if path.endswith(".csv"):
            return _cell(text, path, name, folder, lock)
        return _metric(text, path, name, folder, lock)
    if text in lock:
        return _whole(text, lock[text])
    if is_id(text) and not Path(text).exists():
        return _run(text, lock, runs)
    return _file(text, _inside(text, folder), folder, lock)


def _inside(text: str, folder: Path) -> str:
    """Path of a file from the project's folder."""
    path = Path(text).absolute()
    if not path.is_relative_to(folder.absolute()):
        raise WhyError(f"{text}: lies outside of the project {folder}")
    return path.relative_to(folder.absolute()).as_posix()


def _file(asked: str, path: str, folder: Path, lock: Mapping[str, Making]) -> Question:
    found = makers(lock, path)
    if not found:
        readers = [making.stage for making in lock.values() if path in making.inputs]
        if readers:
            raise WhyError(f"{asked}: is made by no stage; it is read by {', '.join(readers)}")
        outputs = [out for making in lock.values() for out in making.outputs]
        raise WhyError(f"{asked}: is no stage, no MLflow run, and no output in dvc.lock{suggest(path, outputs)}")
    if len(found) > 1:
        raise WhyError(
            f"{asked}: holds outputs of {len(found)} stages; name one: "
            + ", ".join(out for making in found for out in making.outputs if out.startswith(f"{path}/"))
        )
    [making] = found

    def measure(project: Path) -> Any:
        md5 = digest(project / path)
        return {path: md5} if md5 is not None else None

    value = measure(folder)
    faults = [] if value is not None else [f"{path} is not there; 'dvc checkout {path}' or 'mlml repro' brings it"]
    kind = "folder" if (folder / path).is_dir() else "file"
    return Question(asked, f"{kind} {path}", making, measure, value, faults=faults)


def _metric(asked: str, path: str, name: str, folder: Path, lock: Mapping[str, Making]) -> Question:
    found = [making for making in makers(lock, path) if path in making.outputs]
    if not found or not path.endswith(".json"):
        files = [out for making in lock.values() for out in making.outputs if out.endswith(".json")]
        raise WhyError(f"{asked}: {path} is no metrics file of a stage in dvc.lock{suggest(path, files)}")
    measure = _reader(path, name)
    if not (folder / path).exists():
        raise WhyError(f"{asked}: {path} is not there; 'mlml repro {found[0].stage}' makes it")
    value = measure(folder)
    if value is None:
        names = list(json.loads((folder / path).read_text()))
        raise WhyError(f"{asked}: {path} has no metric {name!r}{suggest(name, names)}")
    return Question(asked, f"metric {name} in {path}", found[0], measure, value)


def _cell(asked: str, path: str, name: str, folder: Path, lock: Mapping[str, Making]) -> Question:
    """A cell of the leaderboard: `encoder.probe`, `dataset.encoder.probe`, or the probe's stage."""
    if not (folder / path).exists():
        raise WhyError(f"{asked}: {path} is not there; 'mlml repro report' makes it")
    rows = list(csv.DictReader((folder / path).open()))
    if not rows or not {"dataset", "encoder", "probe", "mean", "stage"} <= set(rows[0]):
        raise WhyError(f"{asked}: {path} is no leaderboard, or an empty one")
    short = [f"{row['encoder']}.{row['probe']}" for row in rows]
    full = [f"{row['dataset']}.{label}" for row, label in zip(rows, short, strict=True)]
    found = [k for k, row in enumerate(rows) if name in (short[k], full[k], row["stage"])]
    if not found:
        raise WhyError(f"{asked}: no cell has this name{suggest(name, short)}")
    if len(found) > 1:
        # two probes that differ in nothing that the label shows are told apart by their stages
        names = [full[k] if full.count(full[k]) == 1 else rows[k]["stage"] for k in found]
        raise WhyError(f"{asked}: {len(found)} cells have this name; write {path}: and one of {', '.join(names)}")
    row = rows[found[0]]
    making = lock.get(row["stage"])
    if making is None:
        raise WhyError(f"{asked}: its stage {row['stage']} is not in dvc.lock; 'mlml repro' makes both again")
    metrics = next(out for out in making.outputs if Path(out).parent == METRICS)
    shown = {key: float(row[key]) if row[key] else None for key in ("mean", "interval95")}
    read = _reader(metrics, SCORE)

    def measure(project: Path) -> Any:
        summary = read(project)
        return summary and {key: summary[key] for key in shown}

    faults = []
    if digest(folder / path) not in [writer.outputs[path] for writer in makers(lock, path) if path in writer.outputs]:
        faults.append(f"{path} is not the file that dvc.lock holds; 'mlml repro report' writes it anew")
    if measure(folder) != shown:
        faults.append(f"{path} says {shown}, {metrics} now {measure(folder)}; 'mlml repro report' writes it anew")
    if row.get("key") != making.key:
        faults.append(f"{path} was written of the run with key {row.get('key')}, dvc.lock holds {making.key}")
    about = f"{SCORE} of encoder {row['encoder']} under probe {row['probe']} on {row['dataset']}, from {metrics}"
    return Question(asked, about, making, measure, shown, faults=faults)


def _run(asked: str, lock: Mapping[str, Making], runs: Runs) -> Question:
    try:
        run = runs.by_id(asked)
    except WhyError:
        # not an id; the report names runs by their key
        keyed = [making for making in lock.values() if making.key.startswith(asked)]
        if len(keyed) == 1:
            return _whole(asked, keyed[0])
        raise
    top = run
    if run.parent is not None:
        top = runs.by_id(run.parent)
    if "dvc.stage" not in top.tags:
        raise WhyError(f"{asked}: run {run.name!r} was not made by a stage of this pipeline: it has no tag dvc.stage")
    locked = lock.get(top.tags["dvc.stage"])
    written = Making.from_tags(top.tags, top.parameters)
    faults = []
    if locked is not None and locked.key == written.key:
        making = locked
    else:
        making = written
        now = f"holds the run with key {locked.key}" if locked else "does not hold that stage"
        faults.append(f"dvc.lock {now}, not this one with key {written.key}: the workspace has moved on since")
    inside = f", inside the run {top.id} of its stage" if top is not run else ""
    question = _whole(asked, making)
    about = f"MLflow run {run.id} {run.name!r}{inside}"
    outputs = written.outputs or question.value
    return Question(asked, about, making, question.measure, outputs, run=top, faults=faults)


def _whole(asked: str, making: Making) -> Question:
    """All outputs of a stage."""

    def measure(project: Path) -> Any:
        return {path: digest(project / path) for path in making.outputs}

    return Question(asked, f"outputs of stage {making.stage}", making, measure, dict(making.outputs))


def _reader(path: str, name: str) -> Callable[[Path], Any]:
    """Reader of one metric's summary: mean, interval and the value by seed."""

    def read(project: Path) -> Any:
        file = project / path
        return json.loads(file.read_text()).get(name) if file.exists() else None

    return read
