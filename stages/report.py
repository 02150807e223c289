"""Write reports/index.html and reports/leaderboard.csv from what the other stages left: `python -m stages.report`."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from mlml.declaration import Declaration, Experiment
from mlml.report import Result, RunLink, write_report
from mlml.searched import with_found
from stages import _lineage, _links
from stages._run import Stage, run_stage, versions

logger = logging.getLogger(__name__)

REPORTS = Path("reports")


def work(stage: Stage) -> None:
    """Collect the result of every declared experiment, with its MLflow run, and write the page."""
    root = _lineage.store_root()
    lineages = lineages_of(stage.declaration)
    runs = links(root, lineages)

    def write() -> None:
        commit, dirty = _lineage.git_state(Path.cwd())
        provenance = {"commit": commit, "dirty": str(dirty).lower(), **versions()}
        declared = stage.declaration.report
        results = collect(stage.declaration, lineages, runs)
        write_report(results, declared.title, REPORTS, provenance, declared.comparisons)

    stage.steps.run("write report", write)
    for name in ("index.html", "leaderboard.csv"):
        stage.run.log_artifact(REPORTS / name)
    print(f"report: {(REPORTS / 'index.html').resolve()}")


def lineages_of(declaration: Declaration) -> dict[str, _lineage.Lineage]:
    """Return the lineage of the stage of every experiment, by the stage's name."""
    return _lineage.of_all(address(experiment) for experiment in declaration.experiments.values())


def address(experiment: Experiment) -> str:
    """Return the name of an experiment's stage."""
    return f"{experiment.section}@{experiment.name}"


def collect(
    declaration: Declaration, lineages: Mapping[str, _lineage.Lineage], runs: Mapping[str, RunLink | None]
) -> list[Result]:
    """Return what every declared experiment left in reports/.

    Raises:
        FileNotFoundError: an experiment has no metrics yet.
    """
    results = []
    for declared in declaration.experiments.values():
        experiment = with_found(declared, REPORTS / "search")
        lineage = lineages[address(experiment)]
        curves = REPORTS / "curves" / f"{experiment.name}.csv"
        search = REPORTS / "search" / experiment.name
        diagnostics = REPORTS / "diagnostics" / f"{experiment.name}.json"
        sentences = REPORTS / "findings" / experiment.name / "sentences.json"
        result = Result(
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
            figures=sorted(
                path for path in (REPORTS / "figures" / experiment.name).glob("*") if path.suffix in (".png", ".gif")
            ),
            search=search if f"{search}" in lineage.outputs else None,
            sentences=json.loads(sentences.read_text()) if f"{sentences.parent}" in lineage.outputs else (),
            run=runs[lineage.stage],
            diagnostics=diagnostics if f"{diagnostics}" in lineage.outputs else None,
            searched=experiment.searched,
        )
        results.append(result)
    return results


def links(root: Path, lineages: Mapping[str, _lineage.Lineage]) -> dict[str, RunLink | None]:
    """Return, by stage, the run that made the present outputs: that of the same command, code, data and numbers.

    A stage that DVC restored from its run cache, as when another machine ran it, has no record here; MLflow is asked.
    """
    from mlml.tracking.run import Record

    found: dict[str, RunLink | None] = dict.fromkeys(lineages)
    missing: list[_lineage.Lineage] = []
    for stage, lineage in lineages.items():
        record = Record.read(_lineage.run_folder(root, lineage))
        if record is None:
            missing.append(lineage)
        else:
            found[stage] = _link(lineage, record.tags)
    experiment_id = None
    if missing:
        known, experiment_id = _ask_mlflow(root, missing)
        found |= {lineage.stage: _link(lineage, known[lineage.key]) for lineage in missing if lineage.key in known}
    _links.write_page(root, experiment_id)
    return found


def _link(lineage: _lineage.Lineage, tags: Mapping[str, str]) -> RunLink:
    return RunLink(lineage.key, _links.link(lineage.key), tags["git.commit"], tags["git.dirty"] == "true")


def _ask_mlflow(root: Path, lineages: list[_lineage.Lineage]) -> tuple[dict[str, Mapping[str, str]], str | None]:
    """Return the tags of the run of each key that MLflow has, and the number of its experiment."""
    from mlml.tracking.store import NESTED_IN, find_runs, tracking_uri

    known: dict[str, Mapping[str, str]] = {}
    experiment_id = None
    try:
        for lineage in lineages:
            for run in find_runs(tracking_uri(root), {"dvc.stage": lineage.stage, "dvc.key": lineage.key}):
                if NESTED_IN not in run.data.tags and run.info.status == "FINISHED":
                    known.setdefault(lineage.key, run.data.tags)  # the newest comes first
                    experiment_id = str(run.info.experiment_id)
    except Exception as error:  # whatever the store may raise, the report is written
        logger.warning(
            "MLflow at %s was not asked for runs of other machines (%s); the report says of them 'no run'",
            tracking_uri(root),
            type(error).__name__,
        )
    return known, experiment_id


if __name__ == "__main__":
    run_stage("report", work)
