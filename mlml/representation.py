"""How healthy a representation is, from features alone: its rank, its spread, and where its neighbours lie.

Notation: n features of width d, one of each image; *unit* features are scaled to length 1.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mlml import distributed
from mlml.config import AugmentConfig
from mlml.data.augment import simclr_view
from mlml.data.batches import Batches
from mlml.method import Encodes, Method
from mlml.seeds import generator

NUM_IMAGES = 512
"""Images that are looked at during training; the rank of so many is that of the whole for features up to this width."""

VIEWS = AugmentConfig(
    crop_scale=(0.5, 1.0), flip_prob=0.0, jitter_prob=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1,
    grey_prob=0.0, blur_prob=0.0,
)  # fmt: skip
"""Two views of an image, for the alignment: one kind for all methods, whatever they train with, and mild enough that a
person would call both the same thing."""


class Neighbours(NamedTuple):
    """The nearest others of each query, nearest first, by cosine."""

    places: Int[Tensor, "q k"]
    similarity: Float[Tensor, "q k"]


def effective_rank(features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """RankMe: the exponential of the entropy of the singular values (Garrido et al. 2023, arXiv:2210.02885, Eq. 1).

    Returns:
        From 1, all features on one line through the origin, to min(n, d). 0 when all features are 0.
    """
    values = torch.linalg.svdvals(features.double())
    total = values.sum()
    shares = values / total.clamp_min(torch.finfo(torch.float64).tiny)
    entropy = -torch.xlogy(shares, shares).sum()
    return torch.where(total > 0, entropy.exp(), 0.0)


def deviation(features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Standard deviation of the unit features, mean over the d channels, in units of 1 / sqrt(d).

    Chen & He 2021, arXiv:2011.10566, section 4.1: 1 when the directions of features spread evenly, 0 when all are the
    same.
    """
    unit = F.normalize(features.double(), dim=1)
    return unit.std(0, unbiased=False).mean() * math.sqrt(features.shape[1])


def alignment(first: Float[Tensor, "n d"], second: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean squared distance between unit features of two views of an image.

    Wang & Isola 2020, arXiv:2005.10242, Eq. 2, with alpha = 2. Row k of both comes from image k. 0 is perfect, and what
    a collapsed encoder has too; 2 is chance.
    """
    return (F.normalize(first.double(), dim=1) - F.normalize(second.double(), dim=1)).square().sum(1).mean()


def uniformity(features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Log of the mean Gaussian potential of all pairs of unit features (Wang & Isola 2020, Eq. 3, with t = 2).

    Lower is more even on the sphere: 0 when all are the same, about -4 + 8/d at best.

    Raises:
        ValueError: fewer than two features, which have no pair.
    """
    if len(features) < 2:
        raise ValueError(f"uniformity: needs at least 2 features; got {len(features)}")
    distances = torch.pdist(F.normalize(features.double(), dim=1))
    return distances.square().mul(-2).exp().mean().log()


def observe(method: Method, batches: Batches, seed: int) -> dict[str, float]:
    """`measure` of images of a split during training, by this rank alone.

    Nothing of a method without an encoder, or of one whose training reads labels, which draw features of a class
    together; nor of a single image.
    """
    looked_at = batches.sample(NUM_IMAGES)
    if len(looked_at) < 2 or method.reads_labels or not isinstance(method, Encodes):
        return {}
    with distributed.alone():
        return measure(method, batches.at(looked_at).images, seed)


@torch.no_grad()
def measure(method: Encodes, images: Float[Tensor, "n c h w"], seed: int) -> dict[str, float]:
    """Measures of an encoder on images in [0, 1], by name; the views of the alignment are drawn from `seed`.

    The encoder must be in eval mode, or its statistics would move.
    """
    features = method.encode(images).float()
    draws = generator(images.device, seed, "representation")
    views = [method.encode(simclr_view(images, VIEWS, draws)).float() for _ in range(2)]
    values = {
        "effective_rank": effective_rank(features),
        "deviation": deviation(features),
        "alignment": alignment(*views),
        "uniformity": uniformity(features),
    }
    return {name: float(value) for name, value in values.items()}


def neighbours(queries: Float[Tensor, "q d"], bank: Float[Tensor, "n d"], k: int, is_same: bool = False) -> Neighbours:
    """The k nearest rows of `bank` to each query, by cosine.

    Args:
        queries: features.
        bank: features to look among.
        k: how many.
        is_same: the queries are the bank itself, and none is its own neighbour.

    Raises:
        ValueError: the bank holds fewer than k others.
    """
    others = len(bank) - is_same
    if not 1 <= k <= others:
        raise ValueError(f"neighbours: k must be in [1, {others}], the features there are; got {k}")
    cosine = F.normalize(queries.float(), dim=1) @ F.normalize(bank.float(), dim=1).T  # (q, n)
    if is_same:
        cosine.fill_diagonal_(float("-inf"))
    similarity, places = cosine.topk(k, dim=1)
    return Neighbours(places, similarity)


def outlyingness(features: Float[Tensor, "n d"], k: int) -> Float[Tensor, " n"]:
    """Distance of each unit feature to its k-th nearest other: small where the features are dense.

    The k-nearest-neighbour score of outliers (Ramaswamy et al. 2000, "Efficient algorithms for mining outliers from
    large data sets", Definition 1); of unit features as in Sun et al. 2022, arXiv:2204.06507.

    Returns:
        Euclidean distances in [0, 2].
    """
    cosine = neighbours(features, features, k, is_same=True).similarity[:, -1]
    return (2 - 2 * cosine).clamp_min(0).sqrt()
