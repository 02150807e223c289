"""The work of a search stage: every trial is a training of the searched experiment with other numbers.

reports/search/<name>/           best.yaml, trials.csv
reports/figures/<name>/          history and importance
reports/metrics/<name>.json      the best value, and how many trials were completed, pruned and failed
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from mlml import catalogue, declaration
from mlml.config import SearchConfig, overridden
from mlml.data.dataset import PreparedData
from mlml.declaration import Experiment
from mlml.search._outputs import write_outputs
from mlml.search._storage import begin, close
from mlml.search._study import Report, SearchError, best, run_study
from mlml.tracking.run import Run
from stages._run import Stage
from stages._training import (
    FIGURES,
    clear_checkpoints,
    fresh_folder,
    kept_base,
    start_target,
    train,
    write_metrics,
)

SEARCHES = Path("reports/search")


def search(stage: Stage) -> None:
    """Run the trials that are not finished yet, and write what was found."""
    experiment, target, data, device = start_target(stage)
    method_class = catalogue.method_class(catalogue.SECTIONS["search"], experiment.method)
    config: SearchConfig = method_class.Config.model_validate(experiment.config.model_dump())
    study = stage.folder / "study"
    runs: dict[int, Run] = {}

    def objective(overrides: dict[str, Any], number: int, _: Path, report: Report) -> float:
        runs[number] = trial_run(stage, number, overrides)
        return run_trial(runs[number], experiment, target, data, device, overrides, report)

    seed, name = experiment.seeds[0], f"{stage.address}/{stage.folder.name}"
    begin(study, name, stage.run.record.id)
    trials = partial(run_study, config, method_class(config).sampler, study, objective, seed, name)
    records = stage.steps.run("run trials", trials)
    for record in records:
        # one that a process finished and was killed before it could end its run is not open here
        run = runs.get(record.number) or trial_run(stage, record.number, record.parameters)
        run.add_tags({"mlml.trial.state": record.state, "mlml.trial.failure": record.failure or ""})

    def write() -> None:
        folder, figures = fresh_folder(SEARCHES / stage.name), fresh_folder(FIGURES / stage.name)
        write_outputs(config, records, folder)
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
    stage.at_end.append(partial(close, study, name, stage.run.record.id))


def trial_run(stage: Stage, number: int, overrides: dict[str, Any]) -> Run:
    """Open the nested run of a trial."""
    run = stage.nested_run(f"trial_{number:04d}", overrides, **{"mlml.trial": str(number)})
    stage.at_end.append(partial(clear_checkpoints, run.folder))
    return run


def run_trial(
    run: Run,
    search: Experiment,
    target: Experiment,
    data: PreparedData,
    device: torch.device,
    overrides: dict[str, Any],
    report: Report,
) -> float:
    """Train the target with other numbers; returns the metric's mean over the search's seeds.

    Raises:
        TrialPruned: by `report`, at an evaluation of the first seed.
        SearchError: the experiment does not measure the metric.
    """
    metric: str = search.config.metric
    experiment = declaration.resolve(target.family, target.name, overridden(target.raw, overrides))

    def measure(metrics: dict[str, float]) -> float:
        if metric not in metrics:
            has = ", ".join(metrics)
            raise SearchError(f"search.{search.name}.metric: {target.name!r} has no {metric!r}; it has {has}")
        return metrics[metric]

    values: list[float] = []
    for seed in search.seeds:
        first = seed == search.seeds[0]
        watch = (lambda step, metrics: report(step, measure(metrics))) if first else None
        folder = run.folder if first else run.folder / f"seed_{seed}"
        values.append(measure(train(experiment, data, seed, folder, device, watch, kept_base(target, seed))[1]))
    value = sum(values) / len(values)
    run.log("objective", value)
    return value
