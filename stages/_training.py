"""What the stages that train have in common: every seed through the one loop, then the outputs.

models/<name>/seed_<s>/          the trained method
reports/metrics/<name>.json      mean, 95 % interval and value by seed of each metric
reports/curves/<name>.csv        one row per evaluation and seed
reports/diagnostics/<name>.json  what the layers did, and what that means
reports/figures/<name>/          pictures, of the families that make some
"""

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from mlml import catalogue, checkpoint, declaration, distributed, model_folder, points, ranks
from mlml.config import TrainConfig
from mlml.data.batches import split_batches
from mlml.data.dataset import DataError, PreparedData
from mlml.declaration import Declaration, Experiment
from mlml.diagnostics import LAYER, REPRESENTATION, STEP, Record
from mlml.method import Method
from mlml.seeds import seed_everything
from mlml.statistics import summarise
from mlml.train import fit
from stages._diagnosing import diagnose_seed, write_diagnostics
from stages._run import Stage
from stages.prepare import PREPARED

MODELS = Path("models")
METRICS = Path("reports/metrics")
CURVES = Path("reports/curves")
FIGURES = Path("reports/figures")
REPORTED_FINDINGS = Path("reports/findings")

Assess = Callable[[Method, PreparedData, int], dict[str, float]]
"""Measures a trained method: (method, data, seed) -> metrics."""

LookBack = Callable[[int, Path], None]
"""Makes something of what the training of a seed left: (seed, folder)."""


def train_experiment(stage: Stage, assess: Assess, look_back: LookBack | None = None) -> None:
    """Train every seed of an experiment, measure it, and write the outputs of the stage."""
    experiment = stage.declaration.experiments[stage.name]
    device = start_device(stage)
    data = PreparedData(PREPARED / experiment.dataset)
    stage.tag(device=device_name(device))
    log_data(stage, data)
    results: dict[int, dict[str, float]] = {}
    folders: dict[int, Path] = {}
    records: dict[int, Record] = {}
    for seed in experiment.seeds:
        run = stage.nested_run(f"seed_{seed}", experiment.resolved(), **{"mlml.seed": str(seed)})
        folder = folders[seed] = run.folder
        base = load_base(stage.declaration, experiment, seed)
        training = partial(train, experiment, data, seed, folder, device, base=base)
        method, metrics = stage.steps.run(f"train seed {seed}", training)
        stage.at_end.append(partial(clear_checkpoints, folder))
        measured = stage.steps.run(f"evaluate seed {seed}", partial(assess, method.eval(), data, seed))
        if look_back is not None:
            look_back(seed, folder)
        for name, value in measured.items():
            run.log(name, value)
        results[seed] = {**metrics, **measured}
        records[seed] = diagnose_seed(run, method.loss_falls)
        model_folder.save(MODELS / stage.name / f"seed_{seed}", experiment.family, experiment.method, method)
    stage.steps.run("write outputs", lambda: write_outputs(stage, results, folders))
    write_diagnostics(stage, records)
    stage.run.log_artifact(MODELS / stage.name)


def load_base(declared: Declaration, experiment: Experiment, seed: int) -> Method | None:
    """The trained model that a seed of a composed experiment stands on; None of any other experiment."""
    if experiment.searched is not None:  # its stage waits for the experiment that was searched, not for that one's base
        return kept_base(declared.experiments[experiment.searched.experiment], seed)
    if experiment.family != "composed":
        return None
    base = declared.experiments[experiment.config.base]
    method = catalogue.method_class(catalogue.SECTIONS["composed"], experiment.method)
    return model_folder.load(MODELS / base.name / f"seed_{base.seeds[0] if method.base_seed == 'first' else seed}")


def kept_base(target: Experiment, seed: int) -> Method | None:
    """The same of an experiment that is trained already, from its own folder, for who trains it anew."""
    return model_folder.base_of(MODELS / target.name / f"seed_{seed}") if target.family == "composed" else None


def start_target(stage: Stage) -> tuple[Experiment, Experiment, PreparedData, torch.device]:
    """Begin a stage about another experiment: the entry, what it names, that one's data, and the device."""
    experiment = stage.declaration.experiments[stage.name]
    target = as_trained(stage.declaration.experiments[experiment.config.experiment])
    device = start_device(stage)
    data = PreparedData(PREPARED / target.dataset)
    stage.tag(device=device_name(device), target=target.name)
    log_data(stage, data)
    return experiment, target, data, device


def as_trained(experiment: Experiment) -> Experiment:
    """An experiment with the numbers that its models have: what a search found is in no entry."""
    if experiment.searched is None:
        return experiment
    numbers = model_folder.read(MODELS / experiment.name / f"seed_{experiment.seeds[0]}").description["config"]
    common = {"method": experiment.method, "dataset": experiment.dataset, "seeds": list(experiment.seeds)}
    found = declaration.resolve(experiment.family, experiment.name, {**common, **numbers})
    return replace(found, searched=experiment.searched)


def start_device(stage: Stage) -> torch.device:
    """Return the device to compute on, with as many threads on the processor as the declaration says."""
    torch.set_num_threads(stage.declaration.threads)
    return distributed.start()


def train(
    experiment: Experiment,
    data: PreparedData,
    seed: int,
    folder: Path,
    device: torch.device,
    on_evaluation: Callable[[int, dict[str, float]], None] | None = None,
    base: Method | None = None,
) -> tuple[Method, dict[str, float]]:
    """Train one seed of an experiment, or go on from its checkpoint; returns the method and its validation metrics.

    `base` is what a composed experiment stands on.
    """
    config: TrainConfig | None = getattr(experiment.config, "train", None)
    if config is not None and ranks.needed(config):
        trained = ranks.train(
            experiment.family, experiment.method, experiment.config, data.folder, seed, folder, on_evaluation, base
        )
        return trained[0].to(device), trained[1]
    return train_here(experiment, data, seed, folder, device, on_evaluation, base)


def train_here(
    experiment: Experiment,
    data: PreparedData,
    seed: int,
    folder: Path,
    device: torch.device,
    on_evaluation: Callable[[int, dict[str, float]], None] | None = None,
    base: Method | None = None,
) -> tuple[Method, dict[str, float]]:
    """Train one seed in this process, on any part of prepared data; otherwise as `train`."""
    seed_everything(seed, "init")
    method = model_folder.build(experiment.family, experiment.method, experiment.config, data.spec, base).to(device)
    if not method.phases:
        return method, {}
    config = experiment.config.train
    splits = ("train", "validation")
    batches = [split_batches(data, name, config.batch_size, seed, device, method.targets) for name in splits]
    fitted = fit(method, batches[0], batches[1], config, seed, folder, on_evaluation)
    return method, fitted.metrics


def write_outputs(stage: Stage, results: Mapping[int, Mapping[str, float]], folders: Mapping[int, Path]) -> None:
    """Write metrics and curves, and log them with the stage's run."""
    write_metrics(stage, results)
    CURVES.mkdir(parents=True, exist_ok=True)
    path = CURVES / f"{stage.name}.csv"
    write_curves(path, {seed: folder / "points.jsonl" for seed, folder in folders.items()})
    stage.run.log_artifact(path)


def write_metrics(stage: Stage, results: Mapping[int, Mapping[str, float]]) -> None:
    """Write mean, 95 % interval and value by seed of each metric, and log the means with the stage's run."""
    names = list(dict.fromkeys(name for metrics in results.values() for name in metrics))
    summary = {name: summarise({seed: metrics[name] for seed, metrics in results.items()}) for name in names}
    METRICS.mkdir(parents=True, exist_ok=True)
    path = METRICS / f"{stage.name}.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    for name, values in summary.items():
        for key, suffix in (("mean", ""), ("interval95", "/interval95")):
            value = values[key]
            if value is not None:
                stage.run.log(name + suffix, value)
    stage.run.log_artifact(path)


def write_curves(path: Path, point_files: Mapping[int, Path]) -> None:
    """Write one row per evaluation and seed: the validation metrics, and the train metrics last logged before it."""
    rows: list[dict[str, float]] = []
    for seed, point_file in point_files.items():
        latest: dict[str, float] = {}
        for name, step, value in points.read(point_file):
            if name.startswith("validation/"):
                if not rows or (rows[-1]["seed"], rows[-1]["step"]) != (seed, step):
                    rows.append({"step": step, "seed": seed, **latest})
                rows[-1][name] = value
            elif not name.startswith(("system/", "test/", LAYER, STEP, REPRESENTATION)):
                latest[name] = value
    columns = list(dict.fromkeys(["step", "seed", "validation/loss", *(name for row in rows for name in row)]))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def clear_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished run, wherever under its folder the loop put them."""
    for path in {path.parent for path in folder.rglob("step_*")}:
        checkpoint.clear(path)


def fresh_folder(folder: Path) -> Path:
    """Return an empty folder, whatever an earlier run left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def log_data(stage: Stage, data: PreparedData) -> None:
    """Record the data set with the stage's run."""
    digest = data.spec.hashes.get("train/images.npy")
    if digest is None:
        raise DataError(
            f"{data.folder / 'spec.json'}: has no hash of train/images.npy; run 'dvc repro -f' on its stage"
        )
    stage.run.log_dataset(data.spec.name, digest, str(data.folder))


def device_name(device: torch.device) -> str:
    """Name of the device, as a person knows it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"
