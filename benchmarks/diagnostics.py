"""What it costs to measure the layers at the default interval, in one run: `python -m benchmarks.diagnostics`.

Two loops train the same network on the same batches on one thread, one with `diagnose_every` as it is by default, one
with null. They take turns step by step, so that other load on the machine meets both; the time is the processor's,
which hardly feels it (on a GPU it is the clock's, after each step has ended). The ratio is that of the times of as many
steps as the interval, one of them diagnosed; the table holds medians and quartiles over such turns. Reading the
measures at the log, and writing them, is part of it.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.step import described
from mlml.config import TrainConfig
from mlml.data.batches import Batches
from mlml.points import Points
from mlml.seeds import seed_everything
from mlml.supervised.classifier import Classifier
from mlml.train import _Loop

SIDE, BATCH_SIZE, CLASSES = 16, 128, 10
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp, 64 and 64": {"network": "mlp", "hidden_widths": [64, 64]},
    "mlp, 512 and 256 (default)": {"network": "mlp"},
    "cnn, width 24": {"network": "cnn", "width": 24},
    "vit (default)": {"network": "vit"},
}


def make_loop(encoder: dict[str, Any], folder: Path, device: torch.device, **numbers: Any) -> _Loop:
    """A loop at its beginning, on noise."""
    train = {"steps": 10**6, "batch_size": BATCH_SIZE, **numbers}
    config = Classifier.Config.model_validate({"encoder": encoder, "train": train})
    seed_everything(0, "init")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2048, 1, SIDE, SIDE), dtype=np.uint8)
    batches = Batches(images, generator.integers(0, CLASSES, 2048), BATCH_SIZE, 0, device)
    loop = _Loop(Classifier(config, described(1, SIDE)), batches, batches, config.train, 0, folder)
    loop.points = Points(folder / "points.jsonl")
    return loop


def step(loop: _Loop) -> float:
    """Seconds of one step, and of the log if it is due."""
    on_gpu = loop.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    began = clock()
    loop._step()
    loop.state.step += 1
    if loop.state.step % loop.config.log_every == 0:
        loop._log(loop._flush_window())
        loop._log_measures()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - began


def measure(encoder: dict[str, Any], repeats: int, device: torch.device) -> tuple[list[float], list[float]]:
    """Seconds of each turn of `diagnose_every` steps, without and with diagnostics."""
    every = TrainConfig(steps=1).diagnose_every
    assert every is not None
    with tempfile.TemporaryDirectory() as folder:
        without = make_loop(encoder, Path(folder) / "without", device, diagnose_every=None)
        with_them = make_loop(encoder, Path(folder) / "with", device)
        pairs = [(step(without), step(with_them)) for _ in range(every * (repeats + 1))][every:]  # one turn to warm up
    turns = [pairs[start : start + every] for start in range(0, len(pairs), every)]
    return [sum(a for a, _ in turn) for turn in turns], [sum(b for _, b in turn) for turn in turns]


def main() -> None:
    """Measure every network and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="turns of each loop")
    parser.add_argument("--network", choices=NETWORKS, help="this one alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    every = TrainConfig(steps=1).diagnose_every
    print(f"torch {torch.__version__}, {device}, batches of {BATCH_SIZE}, diagnose_every {every}")
    print(f"{'network':<30}{'ms a step':>12}{'with':>10}{'more':>10}{'(quartiles)':>20}")
    for name, encoder in NETWORKS.items():
        if arguments.network not in (None, name):
            continue
        without, with_them = measure(encoder, arguments.repeats, device)
        ratios = [b / a - 1 for a, b in zip(without, with_them, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        steps = 1000 / every
        plain, slowed = statistics.median(without) * steps, statistics.median(with_them) * steps
        print(f"{name:<30}{plain:>12.2f}{slowed:>10.2f}{middle:>10.1%}{f'{low:.1%} to {high:.1%}':>20}", flush=True)


if __name__ == "__main__":
    main()
