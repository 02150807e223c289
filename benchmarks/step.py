"""What the loop costs: a step of `fit` against one of a hand-written loop, in one run: `python -m benchmarks.step`.

Both train the same network with the same optimizer, rates and batches on one thread, in float32. The hand-written loop
is what a tutorial would have: batch, augmentation, forward, backward, one step. `fit` does besides what it always does:
seeds by the step, the schedule, sums on the device, points on disk, a line now and then. Neither evaluates nor saves
within the measured steps. The diagnostics of the layers are on at their default interval, or off.

Contestants take turns of some steps, so that other load on the machine meets all of them; the table holds the median of
the ratios within a turn, and its quartiles.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlml import model_folder, optimizers
from mlml.config import TrainConfig
from mlml.data.batches import Batches
from mlml.data.dataset import DataSpec
from mlml.declaration import resolve
from mlml.method import Method
from mlml.train import fit

CPU = torch.device("cpu")
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"network": "mlp", "hidden_widths": [128, 64]},
    "cnn": {"network": "cnn", "width": 16},
}
BATCH_SIZE, SIDE, CLASSES = 128, 28, 10
TURNS_WARM = 2
"""First turns, left out: memory is taken and kernels are chosen in them."""


def data() -> tuple[DataSpec, np.ndarray, np.ndarray]:
    """Noise of the form of Fashion-MNIST; what is in the pixels costs nothing."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10_000, 1, SIDE, SIDE), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, len(images))
    spec = DataSpec(
        name="noise",
        channels=1,
        height=SIDE,
        width=SIDE,
        classes=tuple(map(str, range(CLASSES))),
        mean=(0.5,),
        std=(0.3,),
        sizes={},
        source={},
        hashes={},
    )
    return spec, images, labels


def build(network: str, spec: DataSpec, steps: int, diagnosed: bool) -> Method:
    """Return an untrained classifier; the same weights at every call."""
    numbers = {"steps": steps, "batch_size": BATCH_SIZE, "schedule": {"name": "constant"}, "evaluate_every": 10**9}
    numbers |= {"checkpoint_every": 10**9, "checkpoint_seconds": 10**9}
    if not diagnosed and "diagnose_every" in TrainConfig.model_fields:
        numbers["diagnose_every"] = None
    entry = {"method": "classifier", "dataset": "noise", "encoder": NETWORKS[network], "train": numbers}
    torch.manual_seed(0)
    return model_folder.build("supervised", "classifier", resolve("supervised", "noise", entry).config, spec)


def by_hand(method: Method, batches: Batches) -> Iterator[None]:
    """Take one step at each turn."""
    optimizer = optimizers.build(method.config.train.optimizer, method.parameters(), False)
    generator = torch.Generator().manual_seed(0)
    method.train()
    n = 0
    while True:
        batch = method.augment(batches(n), generator)
        loss = method(batch, "train").loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        n += 1
        yield


def by_fit(method: Method, batches: Batches, folder: Path) -> Iterator[None]:
    """Take one step of `fit` at each turn: the batches that it asks for stop it."""
    from greenlet import greenlet

    outer = greenlet.getcurrent()

    class Stopping:
        """Batches that give the turn back before each."""

        batch_size, num_batches, device, size = batches.batch_size, batches.num_batches, batches.device, batches.size

        def __call__(self, n: int) -> Any:
            outer.switch()
            return batches(n)

    inner = greenlet(lambda: fit(method, Stopping(), batches, method.config.train, 0, folder))
    inner.switch()  # up to the first batch
    while True:
        inner.switch()
        yield


def turns(contestants: dict[str, Iterator[None]], num_turns: int, steps: int) -> list[dict[str, float]]:
    """Seconds of each contestant in each turn; the order changes from turn to turn."""
    measured = []
    names = list(contestants)
    for turn in range(num_turns + TURNS_WARM):
        seconds = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            for _ in range(steps):
                next(contestants[name])
            seconds[name] = time.perf_counter() - started
        measured.append(seconds)
    return measured[TURNS_WARM:]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--steps", type=int, default=20, help="in a turn")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec, images, labels = data()
    total = (arguments.turns + TURNS_WARM + 1) * arguments.steps + 1
    print("| network | loop | ms a step | ratio | quartiles |\n|---|---|---|---|---|")
    for network in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            methods = [build(network, spec, total, diagnosed) for diagnosed in (False, False, True)]
            own = [Batches(images, labels, BATCH_SIZE, 0, CPU) for _ in methods]
            contestants = {
                "by hand": by_hand(methods[0], own[0]),
                "fit, no diagnostics": by_fit(methods[1], own[1], Path(folder, "off")),
                "fit": by_fit(methods[2], own[2], Path(folder, "on")),
            }
            measured = turns(contestants, arguments.turns, arguments.steps)
        for name in contestants:
            step = statistics.median(turn[name] for turn in measured) / arguments.steps * 1000
            low, ratio, high = statistics.quantiles([turn[name] / turn["by hand"] for turn in measured], n=4)
            print(f"| {network} | {name} | {step:.2f} | {ratio:.3f} | {low:.3f} to {high:.3f} |")


if __name__ == "__main__":
    main()
