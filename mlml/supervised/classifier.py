"""Supervised classification; also the upper baseline of the probes."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, model_validator
from torch import Tensor, nn

from mlml import models
from mlml.config import Declared, EncoderConfig, Probability, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.data.mix import Mixed, cutmix, mixup
from mlml.initialisers import initialise
from mlml.losses import LOSSES
from mlml.method import Method, Output


class Classifier(Method):
    """An encoder and a linear layer, trained on labels.

    The encoder's initialiser is the linear layer's, too.
    """

    measures = ("accuracy",)
    reads_labels = True

    class Config(Declared):
        """Numbers of the classifier.

        Attributes:
            label_smoothing: share of each label that is spread evenly over the classes, in training.
            mixup_alpha: of the Beta distribution of the weights of two mixed images; 0 mixes none.
            cutmix_alpha: the same of the area of a box that comes from another image.
        """

        encoder: EncoderConfig
        train: TrainConfig
        augment: ShiftFlipConfig = ShiftFlipConfig()
        loss: Literal["cross_entropy", "hinge", "mse", "bce", "perceptron"] = "cross_entropy"
        label_smoothing: Probability = 0.0
        mixup_alpha: NonNegativeFloat = 0.0
        cutmix_alpha: NonNegativeFloat = 0.0

        @model_validator(mode="after")
        def _fits(self) -> "Classifier.Config":
            if self.loss in ("hinge", "perceptron") and self.label_smoothing > 0:
                raise ValueError(f"label_smoothing must be 0 with the loss {self.loss!r}; got {self.label_smoothing}")
            if self.mixup_alpha > 0 and self.cutmix_alpha > 0:
                raise ValueError("give at most one of 'mixup_alpha' and 'cutmix_alpha'; got both")
            return self

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim
        self.head = nn.Linear(self.feature_dim, len(spec.classes))
        initialise(self.head, config.encoder.initialiser)

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch | Mixed:
        if not self.training:
            return batch
        shifted = Batch(shift_flip(batch.images, self.config.augment, generator), batch.labels)
        if self.config.mixup_alpha > 0:
            return mixup(shifted, self.config.mixup_alpha, generator)
        if self.config.cutmix_alpha > 0:
            return cutmix(shifted, self.config.cutmix_alpha, generator)
        return shifted

    def forward(self, batch: Batch | Mixed, phase: str) -> Output:
        scores = self.scores(batch.images)  # (b, classes)
        smoothing = self.config.label_smoothing if self.training else 0.0
        loss = LOSSES[self.config.loss]
        losses = loss(scores, batch.labels, smoothing)  # (b,)
        if isinstance(batch, Mixed):
            losses = batch.weight * losses + (1 - batch.weight) * loss(scores, batch.partner_labels, smoothing)
        return Output(losses.mean(), {"accuracy": (scores.argmax(1) == batch.labels).float().mean()})

    def scores(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Scores of the classes for images in [0, 1]."""
        scores: Tensor = self.head(self.encoder(images))
        return scores

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1], before the linear layer."""
        features: Tensor = self.encoder(images)
        return features
