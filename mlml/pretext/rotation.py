"""Rotation prediction (Gidaris et al. 2018, arXiv:1803.07728)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mlml import models
from mlml.config import Declared, EncoderConfig, ShiftFlipConfig, TrainConfig
from mlml.data.augment import rotate90, shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.method import Method, Output

NUM_ROTATIONS = 4


class Rotated(NamedTuple):
    """Every image of a batch in all four rotations, and which rotation each is."""

    images: Float[Tensor, "n c h w"]  # n = 4 b
    turns: Int[Tensor, " n"]  # quarter turns counter-clockwise


class Rotation(Method):
    """An encoder learns to tell by how many quarter turns an image was rotated.

    Gidaris et al. 2018, Eq. 2 and 3, with K = 4; as in their section 3.1 a batch holds every image in all rotations.
    Images must be square. A flip is no augmentation here when it would make a class look like another; the default
    shifts only.
    """

    measures = ("accuracy",)

    class Config(Declared):
        """Numbers of rotation prediction."""

        encoder: EncoderConfig
        train: TrainConfig
        augment: ShiftFlipConfig = ShiftFlipConfig(flip_prob=0.0)

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if spec.height != spec.width:
            raise ValueError(f"rotation: images of {spec.name!r} must be square; got {spec.height}x{spec.width}")
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim
        self.head = nn.Linear(self.feature_dim, NUM_ROTATIONS)

    def augment(self, batch: Batch, generator: torch.Generator) -> Rotated:
        images = batch.images
        if self.training:
            images = shift_flip(images, self.config.augment, generator)
        turns = torch.arange(NUM_ROTATIONS, device=images.device).repeat_interleave(len(images))
        return Rotated(rotate90(images.repeat(NUM_ROTATIONS, 1, 1, 1), turns), turns)

    def forward(self, batch: Rotated, phase: str) -> Output:
        logits = self.head(self.encoder(batch.images))  # (n, 4)
        accuracy = (logits.argmax(1) == batch.turns).float().mean()
        return Output(F.cross_entropy(logits, batch.turns), {"accuracy": accuracy})

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]."""
        features: Tensor = self.encoder(images)
        return features
