"""Features that probes are tested on."""

import numpy as np
import torch

from mlml.probes._features import Labelled


def features(n: int, seed: int, scale: float = 1.0) -> Labelled:
    """Three overlapping Gaussian classes in five dimensions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    x = rng.normal(size=(n, 5)) + np.eye(3, 5)[labels] * 1.5
    return Labelled(torch.from_numpy(x * scale).float(), torch.from_numpy(labels))
