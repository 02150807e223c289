"""The work of a search stage: trials, here and in the workers beside it, and what they found.

reports/search/<name>/           best.yaml, trials.csv, sentences.json
reports/figures/<name>/          the pictures of mlml/search/_outputs.py
reports/metrics/<name>.json      the best value, and how many trials were completed, pruned and failed
"""

from functools import partial
from pathlib import Path
from typing import Any

from optuna import TrialPruned

from mlml.search._outputs import write_outputs
from mlml.search._storage import begin, close
from mlml.search._study import Objective, Record, Report, begin_study, best, run_study
from mlml.tracking.run import Record as TrialRun
from mlml.tracking.run import Run
from stages._run import Stage
from stages._search_workers import Workers
from stages._training import FIGURES, clear_checkpoints, fresh_folder, start_target, write_metrics
from stages._trials import Trials, ending, folder_name

SEARCHES = Path("reports/search")


def search(stage: Stage) -> None:
    """Run the trials that are not finished yet, and write what was found."""
    _, _, _, device = start_target(stage)
    runs: dict[str, Run] = {}

    def open_run(label: str, values: dict[str, Any], tags: dict[str, str]) -> Run:
        runs[label] = stage.nested_run(label, values, **tags)
        return runs[label]

    trials = Trials(stage.declaration, stage.name, stage.folder, device, open_run)
    config, sampler, seed = trials.config, trials.sampler, trials.seed
    study, name = trials.study, trials.study_name
    begin(study, name, stage.run.record.id)
    begin_study(config, sampler, study, seed, name)
    with Workers(stage, config.workers - 1):
        records = run_study(config, sampler, study, as_step(stage, trials), seed, name)
    for record in records:
        _close(stage, record, runs)

    def write() -> None:
        folder, figures = fresh_folder(SEARCHES / stage.name), fresh_folder(FIGURES / stage.name)
        for sentence in write_outputs(config, records, folder):
            print(sentence)
        for picture in folder.glob("*.png"):
            picture.rename(figures / picture.name)
        found = best(records, config.direction).value
        assert found is not None  # the best is a complete trial
        states = {
            f"trials/{state}": sum(r.state == state for r in records) for state in ("complete", "pruned", "failed")
        }
        write_metrics(stage, {seed: {config.metric: found, **states}})
        for path in (folder, figures):
            stage.run.log_artifact(path)

    stage.steps.run("write outputs", write)
    stage.at_end.append(partial(clear_checkpoints, stage.folder))
    stage.at_end.append(partial(close, study, name, stage.run.record.id))


def as_step(stage: Stage, objective: Objective) -> Objective:
    """Make each trial a step of the stage; one that is pruned is no failure of its step."""

    def trial(values: dict[str, Any], number: int, folder: Path, report: Report, /) -> Any:
        pruned: list[TrialPruned] = []

        def run() -> Any:
            try:
                return objective(values, number, folder, report)
            except TrialPruned as end:
                pruned.append(end)

        found = stage.steps.run(f"trial {number}", run)
        if pruned:
            raise pruned[0]
        return found

    return trial


def _close(stage: Stage, record: Record, runs: dict[str, Run]) -> None:
    """Say on a trial's run how it ended; one that ran on another machine was closed there."""
    label = folder_name(record.number)
    here = TrialRun.read(stage.folder / label)
    if here is None or here.parent_id != stage.run.record.id:  # nothing, or what an earlier search left
        return
    run = runs.get(label)
    if run is None:  # of a worker, or of a process that was killed before it could end its run
        run = stage.nested_run(label, record.parameters, **{"mlml.trial": str(record.number)})
    stage.last_tags[run.folder] = ending(record.state, record.failure)
