"""Inpainting by a context encoder (Pathak et al. 2016, arXiv:1604.07379)."""

from collections.abc import Iterable
from itertools import chain
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from mlml import models
from mlml.config import Declared, EncoderConfig, Fraction, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.data.masks import block_mask, central_mask, overlap_weights
from mlml.layers.discriminator import ConvDiscriminator
from mlml.method import Method, Output
from mlml.pretext._pixels import PixelHead

PAPERS_OVERLAP = 7 / 128


class Masked(NamedTuple):
    """Images, and where each is hidden."""

    images: Float[Tensor, "b c h w"]
    mask: Float[Tensor, "b 1 h w"]  # 1 where hidden


def weighted_l2(
    images: Float[Tensor, "b c h w"], predicted: Float[Tensor, "b c h w"], weights: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, ""]:
    """Squared error of the weighted pixels of an image, mean over their weights and the channels, then over images.

    Pathak et al. 2016, Eq. 1, "a normalized masked L2 distance"; their mask is our weights.
    """
    error = (weights * (predicted - images).square()).flatten(1).sum(1)  # (b,)
    return (error / (images.shape[1] * weights.flatten(1).sum(1))).mean()


class Inpainting(Method):
    """An encoder and a decoder learn to fill in what is hidden of an image.

    What is hidden is replaced by the mean of the train images, and the prediction is judged by Eq. 1 there, and around
    the central region with a larger weight where it overlaps with what is seen (section 4). With `adversarial_weight`
    the loss is Eq. 3, the reconstruction weighing 1 less that. The discriminator of Eq. 2 sees, as in the authors'
    program, what is predicted and not what is copied: here real images against those whose hidden and overlapping
    pixels are filled in. The generator minimises -log D, as theirs, for log(1 - D) has no gradient at the beginning.

    A network that tells of every pixel fills in by itself; to others a decoder is added.
    """

    measures = ("reconstruction",)

    class Config(Declared):
        """Numbers of the context encoder.

        Attributes:
            region: "central" is a rectangle in the middle, "blocks" several at random.
            central_side: of the rectangle, as a fraction of the image's sides.
            num_blocks: of an image.
            block_area: what all blocks together hide at most, as a fraction of the image's area.
            overlap: pixels around what is hidden that are predicted too; null: the paper's 7 of 128 around the central
                region, 0 around blocks.
            overlap_weight: of these pixels.
            adversarial_weight: 0 for no discriminator, as where the paper learns features; 0.001 where it fills in.
                There the error is of pixels in [-1, 1], four times that of ours, and the discriminator learns at a
                tenth of the generator's rate; here both have the declared one.
            discriminator_width: channels of the discriminator's first convolution.
        """

        encoder: EncoderConfig
        train: TrainConfig
        region: Literal["central", "blocks"] = "central"
        central_side: Fraction = 0.5
        num_blocks: PositiveInt = 4
        block_area: Fraction = 0.25
        overlap: NonNegativeInt | None = None
        overlap_weight: NonNegativeFloat = 10.0
        adversarial_weight: Annotated[float, Field(ge=0, lt=1)] = 0.0
        discriminator_width: PositiveInt = 64
        decoder_width: PositiveInt = 32
        augment: ShiftFlipConfig = ShiftFlipConfig(padding=0, flip_prob=0.0)

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.size = (spec.height, spec.width)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim
        self.head = PixelHead(self.encoder, spec.channels, self.size, config.decoder_width)
        papers = max(1, round(PAPERS_OVERLAP * min(self.size))) if config.region == "central" else 0
        self.overlap = papers if config.overlap is None else config.overlap
        self.discriminator: nn.Module | None = None
        if config.adversarial_weight > 0:
            self.discriminator = ConvDiscriminator(spec.channels, *self.size, config.discriminator_width)
            self.phases = ("discriminator", "generator")

    def augment(self, batch: Batch, generator: torch.Generator) -> Masked:
        images = shift_flip(batch.images, self.config.augment, generator) if self.training else batch.images
        return Masked(images, self._mask(images, generator))

    def phase_parameters(self, phase: str) -> Iterable[nn.Parameter]:
        if phase == "discriminator" and self.discriminator is not None:
            return self.discriminator.parameters()
        return chain(self.encoder.parameters(), self.head.parameters())

    def forward(self, batch: Masked, phase: str) -> Output:
        weights = overlap_weights(batch.mask, self.overlap, self.config.overlap_weight)
        if phase == "discriminator" and self.discriminator is not None:
            with torch.no_grad():
                filled = _filled(batch.images, self._predicted(*batch), weights > 0)
            real, fake = self._judged(batch.images), self._judged(filled)
            return Output(F.softplus(-real).mean() + F.softplus(fake).mean())  # Eq. 2
        predicted = self._predicted(*batch)
        reconstruction = weighted_l2(batch.images, predicted, weights)
        loss = reconstruction
        if self.discriminator is not None:
            fake = self._judged(_filled(batch.images, predicted, weights > 0))
            adversarial = self.config.adversarial_weight
            loss = (1 - adversarial) * reconstruction + adversarial * F.softplus(-fake).mean()  # Eq. 3
        return Output(loss, {"reconstruction": reconstruction})

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1] of which nothing is hidden."""
        features: Tensor = self.encoder(images)
        return features

    @torch.no_grad()
    def illustrate(
        self, images: Float[Tensor, "b c h w"], generator: torch.Generator
    ) -> dict[str, Float[Tensor, "b c h w"]]:
        """Rows of pictures: what the encoder sees, what it fills in, and the truth."""
        mask = self._mask(images, generator)
        filled = _filled(images, self._predicted(images, mask), mask > 0)
        return {"masked": self._hidden(images, mask), "filled in": filled, "image": images}

    def _mask(self, images: Tensor, generator: torch.Generator) -> Float[Tensor, "b 1 h w"]:
        config = self.config
        if config.region == "central":
            return central_mask(len(images), self.size, config.central_side, images.device)
        return block_mask(len(images), self.size, config.num_blocks, config.block_area, generator)

    def _hidden(self, images: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask > 0, self.encoder.normalize.mean, images)

    def _predicted(self, images: Tensor, mask: Tensor) -> Float[Tensor, "b c h w"]:
        predicted: Tensor = self.head(self.encoder, self._hidden(images, mask)).float().sigmoid()
        return predicted

    def _judged(self, images: Tensor) -> Float[Tensor, " b"]:
        """Logits of being real, of images in [0, 1]."""
        assert self.discriminator is not None
        logits: Tensor = self.discriminator(2 * images - 1)
        return logits.float()


def _filled(images: Tensor, predicted: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, predicted, images)
