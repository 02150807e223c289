"""One trial of a search, in whichever process it runs: a training with other numbers, and what the search judges it by.

<run folder of the stage>/trial_<n>/     record and checkpoints of trial n; further seeds in seed_<s>/ below it
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mlml import catalogue, declaration
from mlml.config import NUM_PARAMETERS, SearchConfig, overridden
from mlml.data.dataset import PreparedData
from mlml.declaration import Declaration, Experiment
from mlml.method import Method
from mlml.search._study import MakeSampler, Report, SearchError
from mlml.tracking.run import POINTS, Run
from stages._evaluating import evaluator
from stages._probing import prober
from stages._training import kept_base, train
from stages.prepare import PREPARED

OpenRun = Callable[[str, dict[str, Any], dict[str, str]], Run]
"""Opens the record of a trial: (name of its folder, values, tags)."""

Judge = Callable[[Method, int, Path], dict[str, float]]
"""Measures a trained method: (method, seed, folder for pictures) -> metrics."""


class Trials:
    """The `mlml.search` objective of a declared search.

    Args:
        declared: holds the search, the experiment that it varies, and the one that judges.
        name: of the search.
        folder: of the stage's run.
        device: where to train.
        open_run: opens the record of a trial; its folder is the trial's.

    Attributes:
        study: folder of the search's study.
        study_name: its name, where it lies in a database.
        seed: of the search.
    """

    def __init__(self, declared: Declaration, name: str, folder: Path, device: torch.device, open_run: OpenRun) -> None:
        self.search = declared.experiments[name]
        self.target = declared.experiments[self.search.config.experiment]
        self.data = PreparedData(PREPARED / self.target.dataset)
        self.study, self.study_name = folder / "study", f"{folder.parent.name}/{folder.name}"
        self.seed = self.search.seeds[0]
        self.device, self.open_run = device, open_run
        self.judge = _judge(declared, self.search, device)

    @property
    def config(self) -> SearchConfig:
        """The search's numbers, as its sampler has them."""
        config: SearchConfig = self._method.Config.model_validate(self.search.config.model_dump())
        return config

    @property
    def sampler(self) -> MakeSampler:
        """What makes the sampler of a trial."""
        sampler: MakeSampler = self._method(self.config).sampler
        return sampler

    @property
    def _method(self) -> Any:
        return catalogue.method_class(catalogue.SECTIONS["search"], self.search.method)

    def __call__(self, overrides: dict[str, Any], number: int, _: Path, report: Report, /) -> list[float]:
        """Train the experiment with other numbers; returns the mean over the search's seeds of each objective.

        Raises:
            TrialPruned: by `report`, at an evaluation of the first seed.
            SearchError: an objective is not measured.
        """
        tags = {"mlml.trial": str(number), "mlml.trial.ended": str(report.ended)}
        if report.continues is not None:
            tags["mlml.trial.continues"] = str(report.continues)
        run = self.open_run(folder_name(number), overrides, tags)
        if report.continues is not None:
            carry_over(run.folder.parent / folder_name(report.continues), run.folder)
        experiment = declaration.resolve(self.target.family, self.target.name, overridden(self.target.raw, overrides))
        found: list[list[float]] = []
        for seed in self.search.seeds:
            first = seed == self.seed
            folder = run.folder if first else run.folder / f"seed_{seed}"
            watch = partial(self._watch, report) if first and self.judge is None else None
            base = kept_base(self.target, seed)
            method, metrics = train(experiment, self.data, seed, folder, self.device, watch, base)
            if self.judge is not None:
                metrics = self.judge(method, seed, folder / "judged")
            size = sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
            metrics = {**metrics, NUM_PARAMETERS: float(size)}
            found.append([self._of(metrics, metric) for metric in self.search.config.directions])
        means = [sum(values) / len(values) for values in zip(*found, strict=True)]
        for metric, value in zip(self.search.config.directions, means, strict=True):
            run.log(f"objective/{metric}" if self.search.config.further_objectives else "objective", value)
        return means

    def _watch(self, report: Report, step: int, metrics: dict[str, float]) -> None:
        report(step, self._of(metrics, self.search.config.metric))

    def _of(self, metrics: dict[str, float], metric: str) -> float:
        if metric not in metrics:
            has, name = ", ".join(metrics), self.search.config.objective
            raise SearchError(f"search.{self.search.name}: {name!r} has no metric {metric!r}; it has {has}")
        return metrics[metric]


def folder_name(number: int) -> str:
    """Name of a trial's folder, in that of the stage's run."""
    return f"trial_{number:04d}"


def ending(state: str, failure: str | None) -> dict[str, str]:
    """Tags of a trial that has ended."""
    return {"mlml.trial.state": state, "mlml.trial.failure": failure or ""}


def carry_over(source: Path, folder: Path) -> None:
    """Let a trial begin with the newest checkpoint of another, and the points up to it.

    Where the other's is not on this machine, the trial comes to the same from the beginning.
    """
    newest = max(source.glob("step_*.ckpt"), default=None)
    if newest is None or any(folder.glob("step_*.ckpt")):
        return
    shutil.copyfile(source / POINTS, folder / POINTS)
    partly = folder / f"{newest.name}.carried"
    shutil.copyfile(newest, partly)
    partly.replace(folder / newest.name)


def _judge(declared: Declaration, search: Experiment, device: torch.device) -> Judge | None:
    """Return what measures a trial; None where that is the training itself."""
    objective = declared.experiments[search.config.objective]
    if objective.family == "probe":
        return prober(objective, device)
    if objective.family == "evaluation":
        return evaluator(declared, objective, device, "validation")
    return None
