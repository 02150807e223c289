"""Write reports/index.html and reports/leaderboard.csv from what the other stages left: `python -m stages.report`."""

import json
from pathlib import Path

from mlml.declaration import Experiment
from mlml.report import Result, RunLink, write_report
from stages import _lineage, _servers
from stages._run import Stage, run_stage, versions

REPORTS = Path("reports")


def work(stage: Stage) -> None:
    """Collect the result of every declared experiment, with its MLflow run, and write the page."""
    experiments = list(stage.declaration.experiments.values())
    lineages = _lineage.of_all(f"{experiment.family}@{experiment.name}" for experiment in experiments)
    base_url = _servers.mlflow_url(_lineage.store_root())

    def result(experiment: Experiment) -> Result:
        lineage = lineages[f"{experiment.family}@{experiment.name}"]
        curves = REPORTS / "curves" / f"{experiment.name}.csv"
        search = REPORTS / "search" / experiment.name
        return Result(
            name=experiment.name,
            family=experiment.family,
            method=experiment.method,
            dataset=experiment.dataset,
            seeds=experiment.seeds,
            config=experiment.resolved(),
            stage=lineage.stage,
            command=f"dvc repro {lineage.stage}",
            metrics=json.loads((REPORTS / "metrics" / f"{experiment.name}.json").read_text()),
            curves=curves if f"{curves}" in lineage.outputs else None,
            figures=sorted((REPORTS / "figures" / experiment.name).glob("*.png")),
            search=search if f"{search}" in lineage.outputs else None,
            run=_link(_lineage.store_root(), lineage, base_url),
        )

    def write() -> None:
        commit, dirty = _lineage.git_state(Path.cwd())
        provenance = {"commit": commit, "dirty": str(dirty).lower(), **versions()}
        write_report(
            [result(experiment) for experiment in experiments], stage.declaration.report.title, REPORTS, provenance
        )

    stage.steps.run("write report", write)
    for name in ("index.html", "leaderboard.csv"):
        stage.run.log_artifact(REPORTS / name)
    print(f"report: {(REPORTS / 'index.html').resolve()}")


def _link(root: Path, lineage: _lineage.Lineage, base_url: str) -> RunLink | None:
    """Return the MLflow run that made a stage's present outputs: that of the same command, code, data and numbers."""
    from mlml.tracking.run import Record
    from mlml.tracking.store import mlflow_ids, run_url

    folder = _lineage.run_folder(root, lineage)
    record, ids = Record.read(folder), mlflow_ids(folder)
    if record is None or ids is None:
        return None
    experiment_id, run_id = ids
    url = run_url(base_url, experiment_id, run_id)
    return RunLink(run_id, experiment_id, url, record.tags["git.commit"], record.tags["git.dirty"] == "true")


if __name__ == "__main__":
    run_stage("report", work)
