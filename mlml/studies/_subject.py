"""What a study is given: a trained experiment, its data, and ways to train it anew."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mlml.data.batches import Batches, split_batches
from mlml.data.dataset import PreparedData
from mlml.method import Method

Train = Callable[[str, PreparedData, int, int], tuple[Method, dict[str, float]]]
"""Takes (label, data, seed, steps), trains the experiment in the label's own folder, or goes on from what lies there;
returns the method and its validation metrics."""

TrainOtherwise = Callable[[Mapping[str, Any], int, Path], dict[str, float]]
"""Takes (overrides, seed, folder), trains the experiment with other values at some dotted paths of its entry in a
folder, or goes on from what lies there; returns the validation metrics."""


@dataclass(frozen=True)
class Subject:
    """A trained experiment under study.

    Attributes:
        config: the experiment's own.
        targets: what its method learns from, "labels" or "masks".
        seeds: of the study.
        load: takes a seed, gives the method that the experiment trained with it, in eval mode.
        build: takes a seed, gives the method before its training.
        folder: of the study while it runs; what it leaves there, one that was killed finds again.
    """

    name: str
    config: Any
    targets: str
    seeds: tuple[int, ...]
    data: PreparedData
    device: torch.device
    load: Callable[[int], Method]
    build: Callable[[int], Method]
    train: Train
    train_otherwise: TrainOtherwise
    folder: Path

    def split(self, name: str, seed: int, data: PreparedData | None = None) -> Batches:
        """Batches of a split, of the size that the experiment was trained with."""
        size = self.config.train.batch_size
        return split_batches(data or self.data, name, size, seed, self.device, self.targets)
