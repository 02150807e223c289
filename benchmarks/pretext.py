"""A whole pretraining, against a plain lightly script, in one run: `python -m benchmarks.pretext`.

SimCLR and VICReg of 32x32 colour images in batches of 256 on two threads, from uint8 images in memory to the updated
weights. Ours is `mlml.train.fit` on `Batches`, with each form of the augmentation that can be declared. The peer is
what lightly's documentation shows as its plain PyTorch example: PIL images, its transform, a DataLoader with 0 and with
2 workers, its loss, `torch.optim.AdamW`, the network called once for each view.

Both sides have the same layers from the same weights, the same AdamW at a constant rate, and the same operations,
probabilities and strengths in the augmentation; before anything is timed, both losses of the same views are compared.
The network is the default encoder of params.yaml, `cnn` of width 24, with its head: about 0.28 million parameters; or,
by `--encoder resnet`, a ResNet-8 of about 0.35. Ours lays the channels of a pixel side by side in memory, a torch
module does not unless told to; the peer runs both as it is and with our layout. Images are normalised in the network on
both sides, and lightly's transform is spared it. The process keeps freed memory, as every stage of ours does
(`mlml.heap`); the peer, which does not ask for that by itself, gains too.

In: order of the data, batches, augmentation, forward, loss, backward, update; in `fit` besides seeds by the step, the
schedule, the log and its points on disk. Out: start-up, decoding of files, evaluation, checkpoints and the diagnostics
of layers (`benchmarks.diagnostics`), which the peer has not. The first three steps, and the batches that workers made
while others ran, are not timed.

A rate is source images per second; an image counts once for its two views. Contestants take turns as in
`benchmarks.augment`, whose comparison of the augmentation alone (aim: 9 times) is printed too. Threads that wait for
each other suffer most from other load, and ours do; where there is some, `--threads 1` and CPU time are fairer.
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from greenlet import greenlet
from lightly.loss import NTXentLoss, VICRegLoss
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from benchmarks.augment import (
    BATCH_SIZE,
    CPU,
    SIDE,
    TEMPERATURE,
    Rate,
    Views,
    all_views,
    best,
    forms,
    lightly_views,
    our_views,
    rates,
    ratios,
    table,
    trained,
)
from benchmarks.step import Turns, described
from mlml import heap, model_folder, optimizers, points
from mlml.config import AugmentConfig
from mlml.data import augment
from mlml.data.batches import Batches
from mlml.method import Method
from mlml.train import fit

ENCODERS: dict[str, tuple[dict[str, Any], str]] = {
    "cnn": ({"network": "cnn", "width": 24}, "stages"),
    "resnet": ({"network": "resnet", "depth": 8, "width": 32, "stem": "pooled"}, "trunk"),
}
"""Declaration of an encoder, and its attribute that holds all layers between the normalisation and the last mean."""
LEARNING_RATE = 1e-3
ALONE = "the step alone, views made before"
OUR_LAYOUT = " in our layout"
WINDOW = 10
"""Steps over which losses are averaged: the interval of the log."""


class Pretext(NamedTuple):
    """A pretext that both sides have, and what makes ours compute what lightly's does."""

    numbers: dict[str, Any]
    head: str  # the attribute that holds the layers behind the encoder
    criterion: nn.Module


PRETEXTS = {
    "simclr": Pretext({"temperature": TEMPERATURE}, "projector", NTXentLoss(temperature=TEMPERATURE)),
    # lightly halves the variance term, as the authors' code does
    "vicreg": Pretext({"expander_dim": 128, "variance_weight": 12.5}, "expander", VICRegLoss()),
}


def photos() -> np.ndarray:
    """Return 7,700 cuts, which overlap, of the two photographs that scikit-learn brings; (n, 3, 32, 32) uint8."""
    cuts = [sliding_window_view(photo, (SIDE, SIDE), (0, 1))[::8, ::8] for photo in load_sample_images().images]
    return np.concatenate([cut.reshape(-1, 3, SIDE, SIDE) for cut in cuts])


def build(name: str, encoder: str, config: AugmentConfig) -> Method:
    """Return an untrained method; the same weights at every call."""
    train = {
        "steps": 10**6,
        "batch_size": BATCH_SIZE,
        "optimizer": {"name": "adamw", "learning_rate": LEARNING_RATE},
        "schedule": {"name": "constant"},
        "decay_norm_and_bias": True,
        "log_every": WINDOW,
        "diagnose_every": None,
    }
    train |= dict.fromkeys(("evaluate_every", "checkpoint_every", "checkpoint_seconds"), 10**9)
    numbers = {"encoder": ENCODERS[encoder][0], "train": train, "augment": config, **PRETEXTS[name].numbers}
    torch.manual_seed(0)
    return model_folder.build("pretext", name, numbers, described(3, SIDE))


def plain(name: str, method: Method, our_layout: bool) -> nn.Sequential:
    """Return the method's layers as one torch module, which lays images out as torch does unless told otherwise."""
    encoder, head = method.encoder, getattr(method, PRETEXTS[name].head)
    if our_layout:
        return nn.Sequential(encoder, head)
    layers = getattr(encoder, ENCODERS[encoder.config.network][1])
    return nn.Sequential(encoder.normalize, layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def peer_loss(name: str, model: nn.Module, both: Views) -> Tensor:
    """Loss of a batch in lightly's examples."""
    x0, x1 = both
    return PRETEXTS[name].criterion(model(x0), model(x1))


def our_loss(method: Method, both: Views) -> Tensor:
    """Loss of a batch in `fit`."""
    return method(augment.Views(*both), "train").loss


def by_lightly(name: str, method: Method, views: Iterator[Views], our_layout: bool) -> Iterator[Tensor]:
    """Train as lightly's examples do; yields the losses."""
    model = plain(name, method, our_layout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    return trained(views, partial(peer_loss, name, model), optimizer)


def by_fit(method: Method, images: np.ndarray, folder: Path) -> Iterator[None]:
    """Train by `fit`, which stops after each step until it is asked for the next."""
    turns = Turns(Batches(images, None, BATCH_SIZE, 0, CPU))
    loop = greenlet(partial(fit, method, turns, turns, method.config.train, 0, folder))
    while True:
        yield loop.switch()


def alone(method: Method, both: Views) -> Iterator[Tensor]:
    """Train on the same views for ever, by hand, with the optimizer that `fit` builds."""
    config = method.config.train
    optimizer = optimizers.build(config.optimizer, method.parameters(), config.decay_norm_and_bias)
    return trained(iter(lambda: both, None), partial(our_loss, method), optimizer)


def noted(steps: Iterator[Tensor], losses: list[Tensor]) -> Iterator[Tensor]:
    """Pass losses on and keep them."""
    for loss in steps:
        losses.append(loss)
        yield loss


def compared(name: str, method: Method, both: Views) -> None:
    """Refuse to go on if the two sides' losses differ, without batch statistics, which SimCLR takes of both views."""
    method = copy.deepcopy(method).eval()
    for our_layout in (False, True):
        theirs = peer_loss(name, plain(name, method, our_layout), both)
        torch.testing.assert_close(our_loss(method, both), theirs, rtol=1e-5, atol=1e-5)


def contestants(
    name: str, encoder: str, images: np.ndarray, config: AugmentConfig, both: Views, folder: Path
) -> tuple[dict[str, Iterator[object]], dict[str, list[Tensor]]]:
    """Return trainings that stop after each step, and where those of the peer will leave their losses."""
    found: dict[str, Iterator[object]] = {}
    losses: dict[str, list[Tensor]] = {}
    for layout in ("", OUR_LAYOUT):
        for workers in (0, 2):
            label = f"lightly{layout}, {workers} workers"
            views = lightly_views(images, config, workers)
            steps = by_lightly(name, build(name, encoder, config), views, bool(layout))
            found[label] = noted(steps, losses.setdefault(label, []))
    for form, declared in forms(config).items():
        found[f"fit{form}"] = by_fit(build(name, encoder, declared), images, folder / f"fit{form}")
    found[ALONE] = alone(build(name, encoder, config), both)
    return found, losses


def measure(name: str, encoder: str, images: np.ndarray, config: AugmentConfig, repeats: int, seconds: float) -> None:
    """Train one method on both sides, and print rates, ratios and losses."""
    both = next(our_views(images, config, compiled=False))
    method = build(name, encoder, config)
    compared(name, method, both)
    with tempfile.TemporaryDirectory() as folder:
        running, losses = contestants(name, encoder, images, config, both, Path(folder))
        found = rates(running, repeats, seconds)
        means = {label: torch.stack(row).unfold(0, WINDOW, WINDOW).mean(1).tolist() for label, row in losses.items()}
        for label in (label for label in running if label.startswith("fit")):
            written = points.read(Path(folder, label, "points.jsonl"))
            means[label] = [value for which, _, value in written if which == "train/loss"]
    modules = (method, plain(name, method, our_layout=False))
    ours, theirs = (sum(parameter.numel() for parameter in module.parameters()) for module in modules)
    table(f"{name}, {ours:,} parameters ({theirs:,})", found)
    conclude(found)
    print(f"  losses, means of {WINDOW} steps:")
    windows = min(10, *map(len, means.values()))
    for label, row in means.items():
        print(f"    {label:<32}" + "".join(f"{value:>8.3f}" for value in row[:windows]))


def conclude(found: dict[str, list[Rate]]) -> None:
    """Print the ratios that matter, and what they are to be at least."""
    rivals = {
        "times lightly as documented (aim 1.5)": best(found, "lightly, "),
        f"times lightly{OUR_LAYOUT}": best(found, f"lightly{OUR_LAYOUT}, "),
        "of the step alone (aim 0.95)": found[ALONE],
    }
    for label in (label for label in found if label.startswith("fit")):
        for what, rival in rivals.items():
            wall, cpu = zip(*ratios(found[label], rival), strict=True)
            spread = f"({min(wall):.2f} to {max(wall):.2f})"
            print(f"  {label}: {statistics.median(wall):.2f} {spread}, per CPU s {statistics.median(cpu):.2f}, {what}")


def main() -> None:
    """Compare each method, then the augmentation alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=4.0, help="least length of a turn")
    parser.add_argument("--blur-prob", type=float, default=0.5, help="0 for the paper's recipe at 32x32")
    parser.add_argument("--threads", type=int, default=2, help="1 on a machine that others use too")
    parser.add_argument("--methods", nargs="*", choices=PRETEXTS, default=list(PRETEXTS))
    parser.add_argument("--encoder", choices=ENCODERS, default="cnn")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    heap.keep_freed()
    config, images = AugmentConfig(blur_prob=arguments.blur_prob), photos()
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.encoder}, blur_prob {config.blur_prob}")
    for name in arguments.methods:
        measure(name, arguments.encoder, images, config, arguments.repeats, arguments.seconds)
    table("augmentation, two views", rates(all_views(images, config, True), arguments.repeats, arguments.seconds / 4))


if __name__ == "__main__":
    main()
