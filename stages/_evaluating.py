"""The work of an evaluation stage: images of a trained generator beside real ones, as a frozen extractor sees them.

reports/metrics/<name>.json                  measures on test, those of the floor, and under their full names
reports/figures/<name>/seed_<s>_*.png        pictures
"""

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from mlml import alarms, catalogue, model_folder
from mlml.data.dataset import PreparedData
from mlml.declaration import Declaration, Experiment
from mlml.evaluations._subject import Extractor, Real
from mlml.evaluations._texts import Captioned, Tagger
from mlml.method import Method
from stages._run import Stage
from stages._training import FIGURES, MODELS, device_name, fresh_folder, log_data, start_device, write_metrics
from stages.prepare import PREPARED

logger = logging.getLogger(__name__)

UNREPEATABLE = "system/"
"""Beginning of the names of what no two runs measure alike: logged with the seed's run, and part of no output."""


def evaluate(stage: Stage) -> None:
    """Evaluate the generator of every seed by one extractor, so that their numbers compare."""
    experiment = stage.declaration.experiments[stage.name]
    config, device = experiment.config, start_device(stage)
    data = PreparedData(PREPARED / experiment.dataset)
    stage.tag(device=device_name(device), generator=config.generator, extractor=config.extractor)
    log_data(stage, data)
    look = evaluator(stage.declaration, experiment, device)

    def measure(seed: int, pictures: Path) -> dict[str, float]:
        return look(model_folder.load(MODELS / config.generator / f"seed_{seed}", device), seed, pictures)

    results: dict[int, dict[str, float]] = {}
    figures = fresh_folder(FIGURES / stage.name)
    for seed in experiment.seeds:
        run = stage.nested_run(f"seed_{seed}", experiment.resolved(), **{"mlml.seed": str(seed)})
        found = stage.steps.run(f"evaluate seed {seed}", partial(measure, seed, run.folder))
        for name, value in found.items():
            run.log(name, value)
        results[seed] = {name: value for name, value in found.items() if not name.startswith(UNREPEATABLE)}
        said = [verdict.sentence for verdict in alarms.of_samples(found)]
        for sentence in said:
            logger.warning("%s, seed %d: %s", stage.name, seed, sentence)
        if said:
            run.add_tags({"mlml.diagnosis": "\n".join(said)})
        for picture in sorted(run.folder.glob("*.png")):
            shutil.move(picture, figures / f"seed_{seed}_{picture.name}")
    stage.run.log_artifact(figures)
    stage.steps.run("write outputs", partial(write_metrics, stage, results))


def evaluator(
    declared: Declaration, experiment: Experiment, device: torch.device, split: str = "test"
) -> Callable[[Method, int, Path], dict[str, float]]:
    """Return what evaluates a generator as a declared evaluation does: (generator, seed, folder of pictures).

    Where something is chosen by what it measures, the split is "validation".
    """
    config = experiment.config
    data = PreparedData(PREPARED / experiment.dataset)
    method_class = catalogue.method_class(catalogue.SECTIONS["evaluation"], experiment.method)
    method = method_class(method_class.Config.model_validate(config.model_dump()))
    folder = MODELS / config.extractor / f"seed_{declared.experiments[config.extractor].seeds[0]}"
    extractor = config.extractor, model_folder.load(folder, device), model_folder.weights_digest(folder)
    if getattr(method_class, "extractor_targets", "labels") == "captions":
        real: Real | Captioned = Captioned(data, Tagger(*extractor), device, split)
    else:
        real = Real(data, Extractor(*extractor), config.num_samples, device, split)

    def measure(generator: Method, seed: int, pictures: Path) -> dict[str, float]:
        found: dict[str, float] = method.evaluate(generator.eval(), real, seed, pictures)
        return found

    return measure
