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

    def standardised(self) -> "FeatureSet":
        """Features less the train split's mean, over its standard deviation, so that encoders can be compared.

        A feature that is the same for every train image is only shifted: nothing is known of its scale, and a small
        divisor would let it outweigh all others where it is not the same.
        """
        mean = self.train.features.mean(0)
        std = self.train.features.std(0, correction=0)
        std = torch.where(std > 1e-6, std, torch.ones_like(std))

        def scaled(part: Labelled) -> Labelled:
            return part._replace(features=(part.features - mean) / std)

        return self._replace(train=scaled(self.train), validation=scaled(self.validation), test=scaled(self.test))


def check(encoder: Method, data: PreparedData) -> None:
    """Refuse an encoder that cannot be probed on this data.

    Raises:
        TypeError: the method has no encoder.
        DataError: the data has no labels, or another number of channels than the encoder was made for.
    """
    if not isinstance(encoder, Encodes):
        raise TypeError(f"{type(encoder).__name__} has no 'encode', so it cannot be probed")
    if data.spec.channels != encoder.spec.channels:
        raise DataError(
            f"{data.folder}: has {data.spec.channels} channels, but the encoder was trained on "
            f"{encoder.spec.channels}; probe it on data like {encoder.spec.name!r}"
        )
    if data.split("test").labels is None:
        raise DataError(f"{data.folder}: has no labels, so no encoder can be probed on it")


@torch.no_grad()
def extract(encoder: Method, data: PreparedData, batch_size: int, device: torch.device) -> FeatureSet:
    """Encode every image of every split, with the encoder frozen and in eval mode.

    Raises:
        TypeError, DataError: as `check`.
    """
    check(encoder, data)
    assert isinstance(encoder, Encodes)
    encoder.to(device).eval().requires_grad_(False)
    sets: dict[str, Labelled] = {}
    for name in SPLITS:
        split = data.split(name)
        batches = Batches(split.images, split.labels, batch_size, 0, device)
        parts = [batches.at(index) for index in batches.in_order()]
        features = torch.cat([encoder.encode(part.images).float() for part in parts])
        sets[name] = Labelled(features, torch.cat([part.labels for part in parts]))
    return FeatureSet(**sets, num_classes=len(data.spec.classes))
