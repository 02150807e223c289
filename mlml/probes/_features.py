"""Features of a frozen encoder, computed once per split."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mlml.data.batches import Batches
from mlml.data.dataset import SPLITS, DataError, PreparedData
from mlml.method import Encodes, Method


class Labelled(NamedTuple):
    """Features of one split, and its labels."""

    features: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]


class FeatureSet(NamedTuple):
    """Features of every split. Choices are made on validation; test is read once."""

    train: Labelled
    validation: Labelled
    test: Labelled
    num_classes: int


@torch.no_grad()
def extract(encoder: Method, data: PreparedData, batch_size: int, device: torch.device) -> FeatureSet:
    """Encode every image of every split, with the encoder frozen and in eval mode.

    Raises:
        DataError: the data has no labels, or another number of channels than the encoder was made for.
    """
    if not isinstance(encoder, Encodes):
        raise TypeError(f"{type(encoder).__name__} has no 'encode', so it cannot be probed")
    if data.spec.channels != encoder.spec.channels:
        raise DataError(
            f"{data.folder}: has {data.spec.channels} channels, but the encoder was trained on "
            f"{encoder.spec.channels}; probe it on data like {encoder.spec.name!r}"
        )
    encoder.to(device).eval().requires_grad_(False)
    sets: dict[str, Labelled] = {}
    for name in SPLITS:
        split = data.split(name)
        if split.labels is None:
            raise DataError(f"{data.folder}: has no labels, so no encoder can be probed on it")
        batches = Batches(split.images, split.labels, batch_size, 0, device)
        parts = [batches.at(index) for index in batches.in_order()]
        features = torch.cat([encoder.encode(part.images).float() for part in parts])
        sets[name] = Labelled(features, torch.cat([part.labels for part in parts]))
    return FeatureSet(**sets, num_classes=len(data.spec.classes))
