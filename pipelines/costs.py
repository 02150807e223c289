"""What the trainings behind the present outputs took, as their runs recorded it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from mlml import points
from mlml.results_table import Cost
from mlml.tracking.run import POINTS
from mlml.tracking.store import find_runs, sqlite_path, tracking_uri
from stages import _lineage

SECONDS, BYTES = "system/train_seconds", "system/peak_memory_bytes"
_SEED = "seed_"


def costs(root: Path, lineages: Iterable[_lineage.Lineage]) -> dict[str, dict[int, Cost]]:
    """Return what each seed of each stage's training took, by the stage's name; a stage without a training has none.

    The records in .mlml/runs are read, and MLflow's of stages that another machine ran.

    Args:
        root: the project.
        lineages: of the stages as they are now.
    """
    found: dict[str, dict[int, Cost]] = {}
    for lineage in lineages:
        folder = _lineage.run_folder(root, lineage)
        found[lineage.stage] = _recorded(folder) if folder.exists() else _tracked(root, lineage)
    return found


def _recorded(folder: Path) -> dict[int, Cost]:
    values = {
        int(path.name.removeprefix(_SEED)): {name: value for name, _, value in points.read(path / POINTS)}
        for path in folder.glob(f"{_SEED}*")
    }
    return _complete(values)


def _tracked(root: Path, lineage: _lineage.Lineage) -> dict[int, Cost]:
    uri = tracking_uri(root)
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        return {}
    values: dict[int, Mapping[str, float]] = {}
    for run in find_runs(uri, {"dvc.stage": lineage.stage, "dvc.key": lineage.key}):
        if "mlml.seed" in run.data.tags and run.info.status == "FINISHED":
            values.setdefault(int(run.data.tags["mlml.seed"]), run.data.metrics)  # the newest comes first
    return _complete(values)


def _complete(values: Mapping[int, Mapping[str, float]]) -> dict[int, Cost]:
    return {
        seed: Cost(known[SECONDS], known[BYTES])
        for seed, known in sorted(values.items())
        if SECONDS in known and BYTES in known
    }
