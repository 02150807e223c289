"""Linear classification of frozen features: the standard evaluation of an encoder."""

from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import nn

from mlml.config import Declared, LabelFraction, SGDConfig, TrainConfig
from mlml.data.batches import Batch, Batches
from mlml.method import Method, Output
from mlml.probes._features import FeatureSet, Labelled
from mlml.seeds import seed_everything
from mlml.train import fit


class LinearHead(Method):
    """One linear layer on features, trained by cross entropy."""

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.linear = nn.Linear(feature_dim, num_classes)

    def forward(self, batch: Batch, phase: str) -> Output:
        logits = self.linear(batch.images)  # (b, classes)
        accuracy = (logits.argmax(1) == batch.labels).float().mean()
        return Output(F.cross_entropy(logits, batch.labels), {"accuracy": accuracy})


class Linear:
    """One linear layer per learning rate; the one that is best on validation is read on test, once.

    Features are standardised by the train split's mean and deviation, as by a batch norm without affine part
    (He et al. 2022, arXiv:2111.06377, appendix A), so that encoders of other scales can be compared.
    """

    measures = ("accuracy",)

    class Config(Declared):
        """Numbers of the probe; `encoder` names the experiment whose encoder is evaluated."""

        encoder: str
        label_fraction: LabelFraction = 1.0
        learning_rates: tuple[PositiveFloat, ...] = Field((0.01, 0.03, 0.1, 0.3), min_length=1)
        train: TrainConfig = TrainConfig(epochs=20, optimizer=SGDConfig())

    def __init__(self, config: Config) -> None:
        self.config = config

    def evaluate(self, features: FeatureSet, seed: int, folder: Path) -> dict[str, float]:
        """Return the accuracies of the chosen layer on validation and test, and its learning rate."""
        train, validation, test, num_classes = features.standardised()
        best: tuple[float, float, LinearHead] | None = None
        for number, learning_rate in enumerate(self.config.learning_rates):
            head, accuracy = self._train(train, validation, num_classes, learning_rate, seed, folder / str(number))
            if best is None or accuracy > best[0]:
                best = (accuracy, learning_rate, head)
        assert best is not None
        with torch.no_grad():
            correct = best[2].eval().linear(test.features).argmax(1) == test.labels
        return {
            "validation/accuracy": best[0],
            "test/accuracy": float(correct.double().mean()),
            "learning_rate": best[1],
        }

    def _train(
        self, train: Labelled, validation: Labelled, num_classes: int, learning_rate: float, seed: int, folder: Path
    ) -> tuple[LinearHead, float]:
        seed_everything(seed, "linear")
        head = LinearHead(train.features.shape[1], num_classes)
        optimizer = self.config.train.optimizer.model_copy(update={"learning_rate": learning_rate})
        config = self.config.train.model_copy(update={"optimizer": optimizer})
        device = train.features.device
        splits = [
            Batches(part.features.cpu().numpy(), part.labels.cpu().numpy(), config.batch_size, seed, device)
            for part in (train, validation)
        ]
        fitted = fit(head, splits[0], splits[1], config, seed, folder)
        return head, fitted.metrics["validation/accuracy"]
