"""How long stages took before: from the records of this workspace, and from MLflow for what has none.

A duration is the metric "system/seconds" of a stage's finished run, which every stage logs as it ends.
"""

import logging
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mlml import points
from mlml.tracking import sqlite_store, store
from mlml.tracking.run import POINTS, Record
from stages._servers import answers

logger = logging.getLogger(__name__)

METRIC = "system/seconds"
NEWEST = 5
"""How many of the newest runs count; older ones may be of another machine or version."""

ANSWER_SECONDS = 2.0

_RUNS = """
SELECT runs.run_uuid, stages.value, seconds.value, runs.end_time, settings.key, settings.value
FROM runs
JOIN tags AS stages ON stages.run_uuid = runs.run_uuid AND stages.key = 'dvc.stage'
JOIN latest_metrics AS seconds ON seconds.run_uuid = runs.run_uuid AND seconds.key = 'system/seconds'
LEFT JOIN params AS settings ON settings.run_uuid = runs.run_uuid
    AND (settings.key LIKE '%.method' OR settings.key LIKE '%.source')
WHERE runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'
ORDER BY runs.end_time DESC
LIMIT 2000
"""


@dataclass(frozen=True)
class _Past:
    """A finished run of a stage.

    Attributes:
        kind: group and method of its entry, such as ("pretext", "simclr"); None where it names no method.
        whole: it was not taken up from a checkpoint, so its seconds are all that the work needs.
    """

    stage: str
    kind: tuple[str, str] | None
    seconds: float
    end: int
    whole: bool = True


def durations(root: Path, stages: Iterable[str]) -> dict[str, float]:
    """Return the seconds that stages are expected to take; a stage of which nothing is known is left out.

    It is the median of the newest runs of the stage itself, else of those of entries of the same group and method.
    Nothing is written, and a tracking server that does not answer is done without.

    Args:
        root: the project.
        stages: as DVC addresses them.
    """
    wanted, kinds = list(stages), _kinds(root)
    here, there = _Known(_recorded(root)), _Known([])
    if any(stage not in here.of_stage for stage in wanted):
        there = _Known(_at_mlflow(root))
    found = {}
    for stage in wanted:
        kind = kinds.get(stage)
        tried = (here.of_stage.get(stage), there.of_stage.get(stage), here.of_kind.get(kind), there.of_kind.get(kind))
        runs = next((runs for runs in tried if runs), None)
        if runs is not None:
            found[stage] = _median(runs)
    return found


class _Known:
    """Past runs by their stage, and by group and method."""

    def __init__(self, runs: Iterable[_Past]) -> None:
        self.of_stage: dict[str, list[_Past]] = {}
        self.of_kind: dict[tuple[str, str] | None, list[_Past]] = {}
        for past in runs:
            self.of_stage.setdefault(past.stage, []).append(past)
            if past.kind is not None:
                self.of_kind.setdefault(past.kind, []).append(past)


def _median(runs: list[_Past]) -> float:
    """Median of the newest runs; those that were taken up count only where there are no others."""
    counted = [past for past in runs if past.whole] or runs
    newest = sorted(counted, key=lambda past: past.end)[-NEWEST:]
    return statistics.median(past.seconds for past in newest)


def _kinds(root: Path) -> dict[str, tuple[str, str]]:
    """Group and method of every entry that params.yaml declares."""
    try:
        declared = YAML(typ="safe").load(root / "params.yaml")
    except OSError:
        return {}
    found = {}
    for section, entries in declared.items():
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            method = entry.get("method", entry.get("source")) if isinstance(entry, dict) else None
            if method is not None:
                group = "prepare" if section == "data" else section
                found[f"{group}@{name}"] = (group, str(method))
    return found


def _kind(stage: str, settings: Mapping[str, str]) -> tuple[str, str] | None:
    """Group and method of a past run, by the params that it recorded, such as "pretext.simclr.method"."""
    group, _, name = stage.partition("@")
    section = "data" if group == "prepare" else group
    keys = (f"{section}.{name}.{word}" for word in ("method", "source"))
    return next(((group, settings[key]) for key in keys if key in settings), None)


def _recorded(root: Path) -> list[_Past]:
    """Runs of which this workspace has the record."""
    found = []
    for path in [*(root / ".mlml" / "runs").glob(f"*/*/{Record.FILE}"), *_set_aside(root)]:
        try:
            record = Record.read(path.parent)
            seconds = [value for name, _, value in points.read(path.parent / POINTS) if name == METRIC]
        except (OSError, ValueError, TypeError, KeyError):
            logger.debug("%s cannot be read", path, exc_info=True)  # 'mlml doctor' tells
            continue
        if record is None or record.status != "FINISHED" or record.end is None or not seconds:
            continue
        stage = record.tags.get("dvc.stage", "")
        whole = record.opened == record.start
        found.append(_Past(stage, _kind(stage, record.params), seconds[-1], record.end, whole))
    return found


def _set_aside(root: Path) -> Iterable[Path]:
    """Records of finished runs that could not be sent before the next began in the same folder."""
    return (root / ".mlml" / "runs").glob(f"*/*/attempt_*/{Record.FILE}")


def _at_mlflow(root: Path) -> list[_Past]:
    """Runs that MLflow has; none when it cannot be asked."""
    uri = store.tracking_uri(root)
    try:
        if uri.startswith(("http://", "https://")):
            return _of_server(uri)
        path = store.sqlite_path(uri)
        if path is not None and not path.exists():
            return []
        return _of_database(uri, path)
    except Exception as error:  # an estimate is not worth a failure
        logger.debug("no durations from %s: %s", uri, error)
        return []


def _of_database(uri: str, path: Path | None) -> list[_Past]:
    """Ask the tables directly: MLflow's client would make or migrate them, and takes seconds to import."""
    import sqlalchemy

    if path is not None:
        engine = sqlalchemy.create_engine("sqlite://", creator=lambda: sqlite_store.read_only(path))
    else:
        limit = {"connect_timeout": int(ANSWER_SECONDS)} if uri.startswith("postgresql") else {}
        engine = sqlalchemy.create_engine(uri, connect_args=limit)
    try:
        with engine.connect() as connection:
            rows = connection.execute(sqlalchemy.text(_RUNS)).all()
    finally:
        engine.dispose()
    settings: dict[str, dict[str, str]] = {}
    for run, _, _, _, key, value in rows:
        settings.setdefault(run, {})[key] = value
    found = {run: (stage, float(seconds), int(end)) for run, stage, seconds, end, _, _ in rows}
    return [_Past(stage, _kind(stage, settings[run]), seconds, end) for run, (stage, seconds, end) in found.items()]


def _of_server(uri: str) -> list[_Past]:
    if not answers(f"{uri.rstrip('/')}/health", ANSWER_SECONDS):
        return []
    client = store.connect(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    wanted = f"attributes.status = 'FINISHED' and metrics.`{METRIC}` > 0"
    runs: list[Any] = client.search_runs(experiments, wanted, max_results=1000)
    return [
        _Past(stage, _kind(stage, run.data.params), run.data.metrics[METRIC], run.info.end_time)
        for run in runs
        if (stage := run.data.tags.get("dvc.stage"))
    ]
