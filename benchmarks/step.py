"""What the loop costs: a step of `fit` against one of a hand-written loop, in one run: `python -m benchmarks.step`.

Both train the same network with the same optimizer, rates and batches on one thread, in float32. The hand-written loop
is what a tutorial would have: batch, augmentation, forward, backward, one step. `fit` does besides what it always does:
seeds by the step, the schedule, sums on the device, points on disk, a line now and then. Neither evaluates nor saves
within the measured steps. The diagnostics of the layers are on at their default interval, or off.

Contestants take turns of a few steps, so that other load on the machine meets all of them, and the time is the
processor's. Where a process happens to lay its tensors can cost a contestant several percent for as long as it lives,
so all are made anew in every round; the hand-written loop runs twice, and the ratio of the two says how much is chance.
The table holds the median over rounds of the ratio of times, and its 95 % interval by bootstrap.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from greenlet import greenlet
from scipy.stats import bootstrap

from mlml import model_folder, optimizers
from mlml.data.batches import Batch, Batches
from mlml.data.dataset import DataSpec
from mlml.declaration import resolve
from mlml.method import Method
from mlml.train import fit

CPU = torch.device("cpu")
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"network": "mlp", "hidden_widths": [128, 64]},
    "cnn": {"network": "cnn", "width": 16},
}
CONTESTANTS = ("by hand", "by hand again", "fit, no diagnostics", "fit")
BATCH_SIZE, SIDE, CLASSES = 128, 28, 10
WARM_STEPS = 30
"""First steps, left out: memory is taken and kernels are chosen in them."""
STEPS_ROUND = 200
"""Steps of a contestant in a round: a multiple of the intervals of the log and of the diagnostics."""


def described(channels: int, side: int) -> DataSpec:
    """Return what a method is told of images that no source has made."""
    return DataSpec(
        name="noise",
        channels=channels,
        height=side,
        width=side,
        classes=tuple(map(str, range(CLASSES))),
        mean=(0.5,) * channels,
        std=(0.3,) * channels,
        sizes={},
        source={},
        hashes={},
    )


def data() -> tuple[DataSpec, np.ndarray, np.ndarray]:
    """Noise of the form of Fashion-MNIST; what is in the pixels costs nothing."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10_000, 1, SIDE, SIDE), dtype=np.uint8)
    return described(1, SIDE), images, rng.integers(0, CLASSES, len(images))


def build(network: str, spec: DataSpec, steps: int, diagnosed: bool) -> Method:
    """Return an untrained classifier; the same weights at every call."""
    numbers = {"steps": steps, "batch_size": BATCH_SIZE, "schedule": {"name": "constant"}, "evaluate_every": 10**9}
    numbers |= {"checkpoint_every": 10**9, "checkpoint_seconds": 10**9}
    if not diagnosed:
        numbers["diagnose_every"] = None
    entry = {"method": "classifier", "dataset": "noise", "encoder": NETWORKS[network], "train": numbers}
    torch.manual_seed(0)
    return model_folder.build("supervised", "classifier", resolve("supervised", "noise", entry).config, spec)


def by_hand(method: Method, batches: Callable[[int], Batch]) -> None:
    """Train for ever."""
    optimizer = optimizers.build(method.config.train.optimizer, method.parameters(), False)
    generator = torch.Generator().manual_seed(0)
    method.train()
    for n in itertools.count():
        batch = method.augment(batches(n), generator)
        loss = method(batch, "train").loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Turns:
    """Batches of a loop that stops before each, until it is its turn again."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.batch_size, self.num_batches = batches.batch_size, batches.num_batches
        self.device, self.size = batches.device, batches.size
        self.outer = greenlet.getcurrent()

    def __call__(self, n: int) -> Batch:
        self.outer.switch()
        return self.batches(n)


def measure(network: str, steps_turn: int) -> dict[str, float]:
    """Processor seconds of one round of each contestant."""
    spec, images, labels = data()
    with tempfile.TemporaryDirectory() as folder:
        contestants = {}
        for name in CONTESTANTS:
            method = build(network, spec, 2 * STEPS_ROUND + 1, diagnosed=name == "fit")
            turns = Turns(Batches(images, labels, BATCH_SIZE, 0, CPU))
            loop = partial(by_hand, method, turns)
            if name.startswith("fit"):
                loop = partial(fit, method, turns, turns, method.config.train, 0, Path(folder, name))
            contestants[name] = greenlet(loop)
        for _ in range(WARM_STEPS):
            for contestant in contestants.values():
                contestant.switch()
        seconds = dict.fromkeys(contestants, 0.0)
        for turn in range(STEPS_ROUND // steps_turn):
            first = turn % len(CONTESTANTS)
            for name in CONTESTANTS[first:] + CONTESTANTS[:first]:
                started = time.process_time()
                for _ in range(steps_turn):
                    contestants[name].switch()
                seconds[name] += time.process_time() - started
    return seconds


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="of the smallest network; others take fewer")
    parser.add_argument("--steps", type=int, default=5, help="in a turn")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | loop | ms a step | ratio | 95 % interval |\n|---|---|---|---|---|")
    for network in arguments.networks:
        rounds = arguments.rounds if network == "mlp" else max(2, arguments.rounds // 5)
        measured = [measure(network, arguments.steps) for _ in range(rounds)]
        for name in CONTESTANTS:
            step = statistics.median(seconds[name] for seconds in measured) / STEPS_ROUND * 1000
            ratios = [seconds[name] / seconds[CONTESTANTS[0]] for seconds in measured]
            low, high = bootstrap((ratios,), np.median, method="percentile", rng=0).confidence_interval
            print(f"| {network} | {name} | {step:.2f} | {statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} |")


if __name__ == "__main__":
    main()
