"""The work of a probe stage: features of a frozen encoder, and what a probe makes of them.

reports/metrics/<name>.json      accuracies on validation and test
"""

from functools import partial
from pathlib import Path

from mlml import catalogue, model_folder
from mlml.data.dataset import PreparedData
from mlml.probes._features import extract
from stages._run import Stage
from stages._training import MODELS, clear_checkpoints, device_name, log_data, start_device, write_metrics
from stages.prepare import PREPARED

FEATURE_BATCH = 512


def probe(stage: Stage) -> None:
    """Evaluate the encoder of every seed; choices are made on validation, and test is read once."""
    experiment = stage.declaration.experiments[stage.name]
    device = start_device(stage)
    data = PreparedData(PREPARED / experiment.dataset)
    stage.tag(device=device_name(device), encoder=experiment.config.encoder)
    log_data(stage, data)
    probe_class = catalogue.method_class(catalogue.SECTIONS["probe"], experiment.method)
    method = probe_class(probe_class.Config.model_validate(experiment.config.model_dump()))

    def evaluate(seed: int, folder: Path) -> dict[str, float]:
        encoder = model_folder.load(MODELS / experiment.config.encoder / f"seed_{seed}", device)
        metrics: dict[str, float] = method.evaluate(extract(encoder, data, FEATURE_BATCH, device), seed, folder)
        return metrics

    results: dict[int, dict[str, float]] = {}
    for seed in experiment.seeds:
        run = stage.nested_run(f"seed_{seed}", experiment.resolved(), **{"mlml.seed": str(seed)})
        stage.at_end.append(partial(clear_checkpoints, run.folder))
        results[seed] = stage.steps.run(f"probe seed {seed}", partial(evaluate, seed, run.folder))
        for name, value in results[seed].items():
            run.log(name, value)
    stage.steps.run("write outputs", partial(write_metrics, stage, results))
