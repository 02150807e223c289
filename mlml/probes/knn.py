"""Weighted k-nearest-neighbour classification of frozen features (Wu et al. 2018, arXiv:1805.01978)."""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from mlml.config import Declared
from mlml.probes._features import FeatureSet, Labelled

CHUNK = 1024
"""Queries that are compared with all train features at once."""


class KNN:
    """Votes of the k nearest train features, weighted by exp(cosine similarity / temperature).

    Wu et al. 2018, section 3.4. Nothing is trained and nothing is chosen, so the seed does not matter.
    """

    measures = ("accuracy",)

    class Config(Declared):
        """Numbers of the vote; `encoder` names the experiment whose encoder is evaluated."""

        encoder: str
        k: PositiveInt = 20
        temperature: PositiveFloat = 0.1

    def __init__(self, config: Config) -> None:
        self.config = config

    def evaluate(self, features: FeatureSet, seed: int, folder: Path) -> dict[str, float]:
        """Return the accuracy on validation and on test."""
        return {
            "validation/accuracy": self.accuracy(features.train, features.validation, features.num_classes),
            "test/accuracy": self.accuracy(features.train, features.test, features.num_classes),
        }

    def accuracy(self, bank: Labelled, queries: Labelled, num_classes: int) -> float:
        """Share of the queries whose weighted vote is their label."""
        predicted = self.predict(bank, queries.features, num_classes)
        return float((predicted == queries.labels).double().mean())

    def predict(self, bank: Labelled, queries: Float[Tensor, "n d"], num_classes: int) -> Int[Tensor, " n"]:
        """Class of each query: the label with the most weight among its k nearest rows of `bank`."""
        keys, predictions = F.normalize(bank.features, dim=1), []
        for chunk in torch.split(F.normalize(queries, dim=1), CHUNK):
            similarity, index = (chunk @ keys.T).topk(min(self.config.k, len(keys)))  # (q, k)
            weights = (similarity / self.config.temperature).exp()
            votes = torch.zeros(len(chunk), num_classes, device=chunk.device)
            votes.scatter_add_(1, bank.labels[index], weights)
            predictions.append(votes.argmax(1))
        return torch.cat(predictions)
