"""The work of a study stage: a trained experiment is looked at, or trained anew, on less data or otherwise."""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mlml import catalogue, declaration, model_folder
from mlml.config import overridden
from mlml.data.dataset import PreparedData
from mlml.declaration import Experiment
from mlml.method import Method
from mlml.seeds import seed_everything
from mlml.studies._subject import Subject
from stages._findings import write_findings
from stages._run import Stage
from stages._training import (
    MODELS,
    clear_checkpoints,
    kept_base,
    start_target,
    train,
    train_here,
)


def study(stage: Stage) -> None:
    """Carry out the study, and write what was found."""
    experiment, target, data, device = start_target(stage)
    method_class = catalogue.method_class(catalogue.SECTIONS["study"], experiment.method)
    method = method_class(method_class.Config.model_validate(experiment.config.model_dump()))

    def build(seed: int) -> Method:
        base = kept_base(target, seed)
        seed_everything(seed, "init")
        built = model_folder.build(target.family, target.method, target.config, data.spec, base)
        return built.to(device)

    def train_anew(label: str, part: PreparedData, seed: int, steps: int) -> tuple[Method, dict[str, float]]:
        other = of_length(target, steps)
        run = stage.nested_run(label, other.resolved(), **{"mlml.seed": str(seed)})
        stage.at_end.append(partial(clear_checkpoints, run.folder))
        return train_here(other, part, seed, run.folder, device, base=kept_base(target, seed))

    def train_otherwise(overrides: Mapping[str, Any], seed: int, folder: Path) -> dict[str, float]:
        other = declaration.resolve(target.family, target.name, overridden(target.raw, overrides))
        metrics = train(other, data, seed, folder, device, base=kept_base(target, seed))[1]
        clear_checkpoints(folder)
        return metrics

    folder = stage.folder / "study"
    subject = Subject(
        name=target.name,
        config=target.config,
        targets=catalogue.method_class(catalogue.SECTIONS[target.family], target.method).targets,
        seeds=experiment.seeds,
        data=data,
        device=device,
        load=lambda seed: model_folder.load(MODELS / target.name / f"seed_{seed}", device),
        build=build,
        train=train_anew,
        train_otherwise=train_otherwise,
        folder=folder,
    )
    findings = stage.steps.run(experiment.method.replace("_", " "), partial(method.study, subject))
    stage.steps.run("write outputs", partial(write_findings, stage, findings))
    stage.at_end.append(partial(shutil.rmtree, folder, ignore_errors=True))


def of_length(target: Experiment, steps: int) -> Experiment:
    """Return an experiment that is trained for so many steps, whatever its entry says, and is otherwise the same.

    It is trained in one process, which comes to the result of several but for dropout and rounding.
    """
    changed = {"train.epochs": None, "train.steps": steps, "train.processes": 1, "train.shard": False}
    return declaration.resolve(target.family, target.name, overridden(target.raw, changed))
