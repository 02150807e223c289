"""Weighted k-nearest-neighbour classification of frozen features (Wu et al. 2018, arXiv:1805.01978)."""

from pathlib import Path

from jaxtyping import Float, Int
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from mlml.config import Declared, LabelFraction
from mlml.neighbours import vote
from mlml.probes._features import FeatureSet, Labelled


class KNN:
    """Votes of the k nearest train features, weighted by exp(cosine similarity / temperature).

    Wu et al. 2018, section 3.4. Nothing is trained and nothing is chosen, so the seed does not matter.
    """

    measures = ("accuracy",)

    class Config(Declared):
        """Numbers of the vote; `encoder` names the experiment whose encoder is evaluated."""

        encoder: str
        label_fraction: LabelFraction = 1.0
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
        config = self.config
        return vote(bank.features, bank.labels, queries, num_classes, config.k, config.temperature)
