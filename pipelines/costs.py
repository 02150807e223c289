"""What the trainings and the samples behind the present outputs took, as their runs recorded it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from mlml import points
from mlml.results_table import Cost
from mlml.tracking.run import POINTS
from mlml.tracking.store import find_runs, sqlite_path, tracking_uri
from stages import _lineage

SECONDS, BYTES, SAMPLING = "system/train_seconds", "system/peak_memory_bytes", "system/sample_seconds"
_SEED = "seed_"

Recorded = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Metrics by stage, seed and name."""


def costs(recorded: Recorded) -> dict[str, dict[int, Cost]]:
    """Return what each seed of each stage's training took, by the stage's name; a stage without a training has none."""
    return {
        stage: {
            seed: Cost(known[SECONDS], known[BYTES])
            for seed, known in seeds.items()
            if SECONDS in known and BYTES in known
        }
        for stage, seeds in recorded.items()
    }


def sampling(recorded: Recorded) -> dict[str, dict[int, float]]:
    """Return the seconds that the samples of each seed of each evaluation took, by the stage's name."""
    return {
        stage: {seed: known[SAMPLING] for seed, known in seeds.items() if SAMPLING in known}
        for stage, seeds in recorded.items()
    }


def read(root: Path, lineages: Iterable[_lineage.Lineage]) -> Recorded:
    """Return the last value of everything that each seed of each stage recorded.

    The records in .mlml/runs are read, and MLflow's of stages that another machine ran.

    Args:
        root: the project.
        lineages: of the stages as they are now.
    """
    found: dict[str, Mapping[int, Mapping[str, float]]] = {}
    for lineage in lineages:
        folder = _lineage.run_folder(root, lineage)
        seeds = _recorded(folder) if folder.exists() else _tracked(root, lineage)
        found[lineage.stage] = dict(sorted(seeds.items()))
    return found


def _recorded(folder: Path) -> dict[int, Mapping[str, float]]:
    return {
        int(path.name.removeprefix(_SEED)): {name: value for name, _, value in points.read(path / POINTS)}
        for path in folder.glob(f"{_SEED}*")
    }


def _tracked(root: Path, lineage: _lineage.Lineage) -> dict[int, Mapping[str, float]]:
    uri = tracking_uri(root)
    path = sqlite_path(uri)
    values: dict[int, Mapping[str, float]] = {}
    if path is not None and not path.exists():
        return values
    for run in find_runs(uri, {"dvc.stage": lineage.stage, "dvc.key": lineage.key}):
        if "mlml.seed" in run.data.tags and run.info.status == "FINISHED":
            values.setdefault(int(run.data.tags["mlml.seed"]), run.data.metrics)  # the newest comes first
    return values
