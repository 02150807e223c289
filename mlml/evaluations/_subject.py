"""What an evaluation has at hand: a frozen extractor, real images as it sees them, and images of the generator.

Notation: `n` images of each kind, of width `d` as features; `k` classes.
"""

import time
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mlml import metrics
from mlml.data.batches import Batch, split_batches
from mlml.data.dataset import PreparedData
from mlml.method import Encodes, Method, Scores
from mlml.seeds import generator as seeded

MAX_WIDTH = 128
"""Of features: the bias of the Fréchet distance grows with the square of it. Two samples of 500 white normal vectors
are 17 apart with this width, and 266 with 512."""

BATCH_SIZE = 256


class EvaluationError(ValueError):
    """What cannot be evaluated so; the message says what must hold."""


class Seen(NamedTuple):
    """Images as an extractor sees them."""

    features: Float[Tensor, "n d"]
    probabilities: Float[Tensor, "n k"]  # softmax of the scores

    def classes(self) -> Int[Tensor, " n"]:
        """Class of each image."""
        return self.probabilities.argmax(1)


class Extractor:
    """A trained classifier, frozen, in eval mode.

    Args:
        name: of the experiment.
        method: the trained one.
        digest: sha256 of its weights, which `label` begins to tell.

    Raises:
        EvaluationError: it has no features or classes of images, or its features are wider than `MAX_WIDTH`.
    """

    def __init__(self, name: str, method: Method, digest: str) -> None:
        if not isinstance(method, Encodes) or not isinstance(method, Scores):
            raise EvaluationError(f"extractor {name!r}: {type(method).__name__} must have 'encode' and 'scores'")
        if method.feature_dim > MAX_WIDTH:
            raise EvaluationError(
                f"extractor {name!r}: its features must be at most {MAX_WIDTH} wide, or images of one distribution "
                f"seem far apart; got {method.feature_dim}; declare a narrower encoder"
            )
        self.label = f"{name}-{digest[:6]}"
        self._method = method.eval().requires_grad_(False)

    @torch.no_grad()
    def see(self, images: Float[Tensor, "n c h w"]) -> Seen:
        """Features and probabilities of images in [0, 1]."""
        assert isinstance(self._method, Encodes)
        assert isinstance(self._method, Scores)
        features, probabilities = [], []
        for part in torch.split(images, BATCH_SIZE):
            features.append(self._method.encode(part).float())
            probabilities.append(self._method.scores(part).double().softmax(1))
        return Seen(torch.cat(features), torch.cat(probabilities))


class Real:
    """The real images that those of a generator are compared with, seen once for all seeds.

    They are of a split that nothing was trained on, evenly over it. As many of train, from which the extractor and the
    generator have learnt, are the floor: what a generator could reach.

    Attributes:
        split: "test", or "validation" where something is chosen by what is measured.
        count: images of each kind, n.
    """

    def __init__(
        self, data: PreparedData, extractor: Extractor, num_samples: int, device: torch.device, split: str = "test"
    ) -> None:
        self.extractor, self.device, self.classes, self.split = extractor, device, data.spec.classes, split
        self.count = min(num_samples, data.spec.sizes["train"], data.spec.sizes[split])
        self._data = data

    def images(self, split: str) -> Float[Tensor, "n c h w"]:
        """Images in [0, 1] of a split."""
        batches = split_batches(self._data, split, BATCH_SIZE, 0, self.device)
        found: Batch = batches.at(batches.sample(self.count))
        return found.images

    @cached_property
    def held_out(self) -> Seen:
        """Images of the split."""
        return self.extractor.see(self.images(self.split))

    @cached_property
    def train(self) -> Seen:
        """As many of train."""
        return self.extractor.see(self.images("train"))

    @cached_property
    def floor(self) -> dict[str, float]:
        """What `compared` makes of the images of train."""
        return compared(self.held_out, self.train, 0)


def compared(real: Seen, other: Seen, seed: int) -> dict[str, float]:
    """Every measure of how alike other images are to real ones.

    `class_distance` is the total variation between the shares of the classes: 0 where all are as frequent, 1 where no
    class is in both.

    Args:
        real: of a split that nothing was trained on.
        other: as many of a generator, or of train.
        seed: of the draws of the extrapolated FID.
    """
    x, y = real.features, other.features
    draws = seeded(torch.device("cpu"), seed, "extrapolation")
    shares = [seen.classes().bincount(minlength=seen.probabilities.shape[1]).double() for seen in (real, other)]
    apart = shares[0] / shares[0].sum() - shares[1] / shares[1].sum()
    return {
        "fid": metrics.fid(x, y),
        "fid_infinity": metrics.fid_infinity(x, y, draws),
        "kid": metrics.kid(x, y),
        "inception_score": metrics.inception_score(other.probabilities),
        **metrics.overlap(x, y)._asdict(),
        "class_distance": float(apart.abs().sum() / 2),
    }


def named(values: dict[str, float], real: Real) -> dict[str, float]:
    """FID and KID under their full names, such as "test/fid_classifier-1a2b3c_n10000".

    They are of one extractor and one number of images alone, and say so; the short names are there to be compared.
    """
    ending = f"{real.extractor.label}_n{real.count}"
    return {f"{real.split}/{name}_{ending}": values[name] for name in ("fid", "kid") if name in values}


@torch.no_grad()
def in_parts(count: int, draw: Callable[[int], Float[Tensor, "b c h w"]]) -> Float[Tensor, "n c h w"]:
    """So many images, of which `draw` makes a part at a time."""
    sizes = [min(BATCH_SIZE, count - start) for start in range(0, count, BATCH_SIZE)]
    return torch.cat([draw(size).float() for size in sizes])


def as_saved(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Images with the 256 levels that real ones have, and files of them would (Parmar et al. 2022, section 3.3)."""
    return (images * 255).round() / 255


def now(device: torch.device) -> float:
    """Seconds of a clock that only goes forward, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
