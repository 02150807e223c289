"""Images that a generator draws while it is trained, always from the same noise: how they come about."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from mlml import distributed
from mlml.method import Method, Samples
from mlml.seeds import generator

FILE = "snapshots.npz"

MAX_TIMES, NUM_IMAGES = 8, 8


class Snapshots:
    """Images of a few evaluations, evenly over the run, the last among them.

    Nothing of the training depends on them: they have a generator of their own, and in eval mode no statistic moves.

    Args:
        steps: of the whole run.
        evaluate_every: steps from one evaluation to the next.
    """

    def __init__(self, steps: int, evaluate_every: int) -> None:
        evaluations = sorted({*range(evaluate_every, steps, evaluate_every), steps})
        places = np.linspace(0, len(evaluations) - 1, min(MAX_TIMES, len(evaluations))).round().astype(int)
        self._due = {evaluations[place] for place in places}
        self.taken: dict[int, Tensor] = {}  # step -> (n, c, h, w) uint8

    @torch.no_grad()
    def take(self, step: int, model: Method, device: torch.device, seed: int) -> None:
        """Draw images of the weights at an evaluation, if one of these is due; by this rank alone."""
        if step in self._due and isinstance(model, Samples):
            model.eval()
            with distributed.alone():
                images = model.sample(NUM_IMAGES, generator(device, seed, "snapshots"))
            self.taken[step] = (255 * images.float().cpu()).round().to(torch.uint8)

    def write(self, folder: Path) -> None:
        """Write them all to `FILE` in `folder`, if there are any."""
        if self.taken:
            steps = sorted(self.taken)
            images = np.stack([self.taken[step].numpy() for step in steps])
            np.savez(folder / FILE, steps=np.array(steps), images=images)


def read(folder: Path) -> tuple[list[int], UInt8[NDArray[np.uint8], "t n c h w"]] | None:
    """Steps and images that a run left in `folder`; None of a method that draws none."""
    path = folder / FILE
    if not path.exists():
        return None
    with np.load(path) as found:
        return found["steps"].tolist(), found["images"]
