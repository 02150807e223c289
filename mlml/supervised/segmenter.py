"""Segmentation: the class of every pixel."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from mlml import models, segmentation
from mlml.config import Declared, DenseEncoderConfig, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.initialisers import initialise
from mlml.method import Method, Output
from mlml.models import Dense


class Segmenter(Method):
    """A network that tells of every pixel and a 1x1 convolution, trained on masks.

    The loss is the cross entropy of the pixels, in nats, mean over all of a batch (Long et al. 2015, arXiv:1411.4038),
    and, where declared, a Dice term. Of the metrics, `pixel_accuracy` is the share of pixels that are right, and
    `mean_iou` the intersection over union of each image, mean over the classes in its mask or prediction and then over
    images: so that the mean over batches is that over the images of a split.

    Raises:
        ValueError: the data has no masks, or the network as declared does not end with a grid of the image's size.
    """

    targets = "masks"
    reads_labels = True

    class Config(Declared):
        """Numbers of the segmentation.

        Attributes:
            augment: image and mask move alike; the background comes in at the edge.
            dice_weight: of the Dice loss, beside the cross entropy, whose weight is 1.
        """

        encoder: DenseEncoderConfig
        train: TrainConfig
        augment: ShiftFlipConfig = ShiftFlipConfig()
        dice_weight: NonNegativeFloat = 0.0

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not spec.mask_classes:
            raise ValueError(f"segmenter: needs masks, but the data set {spec.name!r} has none; give one that has")
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim
        self.head = nn.Conv2d(self._dense.dense_dim, len(spec.mask_classes), kernel_size=1)
        initialise(self.head, config.encoder.initialiser)

    @property
    def _dense(self) -> Dense:
        return cast(Dense, self.encoder)  # its config is of a network that says so

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        if not self.training:
            return batch
        masks = batch.labels[:, None].to(batch.images.dtype)  # (b, 1, h, w), below 256 and so exact
        both = shift_flip(torch.cat([batch.images, masks], 1), self.config.augment, generator)
        return Batch(both[:, :-1], both[:, -1].long())

    def forward(self, batch: Batch, phase: str) -> Output:
        scores = self.scores(batch.images)  # (b, k, h, w)
        # as a table of pixels: over a grid, a GPU adds in an order of its own each time
        loss = F.cross_entropy(scores.movedim(1, -1).flatten(0, 2), batch.labels.flatten())
        if self.config.dice_weight > 0:
            loss = loss + self.config.dice_weight * segmentation.dice_loss(scores, batch.labels)
        predicted = scores.argmax(1)
        ious = segmentation.mean_iou(segmentation.confusion(batch.labels, predicted, scores.shape[1]))
        accuracy = (predicted == batch.labels).float().mean()
        return Output(loss, {"pixel_accuracy": accuracy, "mean_iou": ious.mean()})

    def scores(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Scores of the classes of every pixel of images in [0, 1]."""
        scores: Tensor = self.head(self._dense.dense(images))
        return scores

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]: those of the network, whose mean over the pixels is part of them."""
        features: Tensor = self.encoder(images)
        return features
