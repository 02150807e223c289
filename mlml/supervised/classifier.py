"""Supervised classification by cross entropy; also the upper baseline of the probes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlml import models
from mlml.config import Declared, EncoderConfig, Probability, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.method import Method, Output


class Classifier(Method):
    """An encoder and a linear layer, trained on labels.

    Label smoothing is that of Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """

    class Config(Declared):
        """Numbers of the classifier."""

        encoder: EncoderConfig
        train: TrainConfig
        augment: ShiftFlipConfig = ShiftFlipConfig()
        label_smoothing: Probability = 0.0

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim
        self.head = nn.Linear(self.feature_dim, len(spec.classes))

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        if not self.training:
            return batch
        return Batch(shift_flip(batch.images, self.config.augment, generator), batch.labels)

    def forward(self, batch: Batch, phase: str) -> Output:
        logits = self.head(self.encoder(batch.images))  # (b, classes)
        smoothing = self.config.label_smoothing if self.training else 0.0
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        return Output(loss, {"accuracy": (logits.argmax(1) == batch.labels).float().mean()})

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1], before the linear layer."""
        features: Tensor = self.encoder(images)
        return features
