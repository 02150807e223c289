"""The work of a probe stage: features of a frozen encoder, and what a probe makes of them.

reports/metrics/<name>.json                  accuracies on validation and test
reports/figures/<name>/seed_<s>_*.png        pictures, of the probes that draw some
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mlml import catalogue, model_folder
from mlml.data.dataset import PreparedData
from mlml.data.parts import Reduced, nested
from mlml.declaration import Experiment
from mlml.method import Method
from mlml.probes._features import extract
from stages._run import Stage
from stages._training import (
    FIGURES,
    MODELS,
    clear_checkpoints,
    device_name,
    fresh_folder,
    log_data,
    start_device,
    write_metrics,
)
from stages.prepare import PREPARED

FEATURE_BATCH = 512


def probe(stage: Stage) -> None:
    """Evaluate the encoder of every seed; choices are made on validation, and test is read once."""
    experiment = stage.declaration.experiments[stage.name]
    device = start_device(stage)
    data = PreparedData(PREPARED / experiment.dataset)
    stage.tag(device=device_name(device), encoder=experiment.config.encoder)
    log_data(stage, data)
    look = prober(experiment, device)

    def evaluate(seed: int, folder: Path) -> dict[str, float]:
        return look(model_folder.load(MODELS / experiment.config.encoder / f"seed_{seed}", device), seed, folder)

    results: dict[int, dict[str, float]] = {}
    figures = fresh_folder(FIGURES / stage.name)
    for seed in experiment.seeds:
        run = stage.nested_run(f"seed_{seed}", experiment.resolved(), **{"mlml.seed": str(seed)})
        stage.at_end.append(partial(clear_checkpoints, run.folder))
        results[seed] = stage.steps.run(f"probe seed {seed}", partial(evaluate, seed, run.folder))
        for name, value in results[seed].items():
            run.log(name, value)
        for picture in sorted(run.folder.glob("*.png")):
            shutil.move(picture, figures / f"seed_{seed}_{picture.name}")
    if any(figures.iterdir()):
        stage.run.log_artifact(figures)
    stage.steps.run("write outputs", partial(write_metrics, stage, results))


def prober(experiment: Experiment, device: torch.device) -> Callable[[Method, int, Path], dict[str, float]]:
    """Return what evaluates an encoder as a declared probe does: (encoder, seed, folder of checkpoints)."""
    data = PreparedData(PREPARED / experiment.dataset)
    probe_class = catalogue.method_class(catalogue.SECTIONS["probe"], experiment.method)
    probe = probe_class(probe_class.Config.model_validate(experiment.config.model_dump()))
    return lambda encoder, seed, folder: measure(probe, encoder.eval(), data, seed, folder, device)


def measure(
    probe: Any, encoder: Method, data: PreparedData, seed: int, folder: Path, device: torch.device
) -> dict[str, float]:
    """Evaluate an encoder by a probe, which knows the labels of its `label_fraction` of the train split.

    Args:
        probe: gets the features of all splits, or the encoder and the images where its class says `inputs = "images"`;
            it may leave pictures in `folder`, as `*.png`.
        encoder: is frozen, and in eval mode.
        data: all of it.
        seed: of the part that is labelled, and of the probe.
        folder: of this seed, for checkpoints and pictures.
        device: where to compute.
    """
    fraction = getattr(probe.config, "label_fraction", 1.0)
    part = data if fraction == 1.0 else Reduced(data, nested(data, fraction, seed))
    metrics: dict[str, float]
    if getattr(probe, "inputs", "features") == "images":
        metrics = probe.evaluate(encoder, part, seed, folder, device)
    else:
        metrics = probe.evaluate(extract(encoder, part, FEATURE_BATCH, device), seed, folder)
    return metrics
