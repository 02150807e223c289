"""The work of a stage that trains a method which makes images.

reports/figures/<name>/seed_<s>_*    samples, reconstructions and what else the method's protocols allow
"""

from pathlib import Path

import torch

from mlml import figures, figures_diffusion, figures_generative, snapshots
from mlml.data.batches import split_batches
from mlml.data.dataset import PreparedData
from mlml.method import (
    Diffuses,
    Edits,
    Guides,
    Infers,
    Method,
    Reconstructs,
    Samples,
    SamplesClasses,
    SamplesTexts,
)
from mlml.seeds import generator
from mlml.train import evaluate
from stages._run import Stage
from stages._training import FIGURES, fresh_folder, train_experiment

NUM_IMAGES = 64
COLUMNS = 8
INTERPOLATIONS = 8
INTERPOLATION_STEPS = 10
NUM_MAPPED = 512


def generate(stage: Stage) -> None:
    """Train every seed; measure its losses on test, and draw what the method's protocols allow."""
    folder = fresh_folder(FIGURES / stage.name)

    @torch.no_grad()
    def assess(method: Method, data: PreparedData, seed: int) -> dict[str, float]:
        device = next(method.parameters()).device
        test = split_batches(data, "test", method.config.train.batch_size, seed, device, method.targets)
        if isinstance(method, Samples):
            samples = method.sample(NUM_IMAGES, generator(device, seed, "samples"))
            figures.image_grid(samples.cpu().numpy(), COLUMNS, folder / f"seed_{seed}_samples.png")
            figures_diffusion.write_nearest(samples, data.split("train").images, folder / f"seed_{seed}_nearest.png")
        if isinstance(method, Reconstructs):
            images = test.at(torch.arange(min(test.size, 4 * COLUMNS))).images
            again = method.reconstruct(images)
            path = folder / f"seed_{seed}_reconstructions.png"
            figures.pairs_grid(images.cpu().numpy(), again.cpu().numpy(), COLUMNS, path)
            half = min(len(images) // 2, INTERPOLATIONS)
            between = method.interpolate(images[:half], images[half : 2 * half], INTERPOLATION_STEPS)
            figures.rows_grid(between.cpu().numpy(), folder / f"seed_{seed}_interpolation.png")
        if isinstance(method, SamplesClasses):
            path = folder / f"seed_{seed}_classes.png"
            figures_generative.write_classes(method, data.spec.classes, seed, device, path)
        if isinstance(method, Infers):
            images, labels = test.at(test.sample(NUM_MAPPED))
            names = [data.spec.classes[label] for label in labels] if data.spec.classes else []
            figures_generative.write_latents(method, images, names, folder, f"seed_{seed}")
        if isinstance(method, Diffuses):
            figures_diffusion.write_film(method, test, seed, folder / f"seed_{seed}_film")
        if isinstance(method, Guides):
            path = folder / f"seed_{seed}_guidance.png"
            figures_diffusion.write_guidance(method, len(data.spec.classes), seed, device, path)
        if isinstance(method, SamplesTexts):
            figures_diffusion.write_texts(
                method, data.split("test").captions or [], seed, device, folder, f"seed_{seed}"
            )
        if isinstance(method, Edits):
            path = folder / f"seed_{seed}_edits.png"
            figures_diffusion.write_edits(method, test, data.split("test").captions or [], seed, path)
        return {f"test/{name}": value for name, value in evaluate(method, test, seed).items()}

    def look_back(seed: int, run_folder: Path) -> None:
        if (taken := snapshots.read(run_folder)) is not None:
            figures_generative.write_snapshots(*taken, folder, f"seed_{seed}")

    train_experiment(stage, assess, look_back)
    stage.run.log_artifact(folder)
