"""Autoencoder (Hinton & Salakhutdinov 2006, Science 313:504)."""

from typing import Literal

import torch
from pydantic import PositiveInt

from mlml.config import Declared, EncoderConfig, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.layers.deconvolution import Decoder
from mlml.method import Output
from mlml.pretext._autoencoding import Autoencoding, reconstruction_error


class Autoencoder(Autoencoding):
    """An image goes through a narrow linear code, and is to come out as it was.

    The paper's deep network, here trained as a whole from the beginning, without its layers' pretraining. Loss is the
    error of the reconstruction, the sum over the pixels, mean over images.
    """

    measures = ()

    class Config(Declared):
        """Numbers of the autoencoder; the code is as wide as the paper's for handwritten digits.

        Attributes:
            decoder_width: channels of the decoder at the image's full size.
            error: cross entropy of the pixels, as in the paper, or half their squared error.
        """

        encoder: EncoderConfig
        train: TrainConfig
        latent_dim: PositiveInt = 30
        decoder_width: PositiveInt = 32
        error: Literal["cross_entropy", "squared"] = "cross_entropy"
        augment: ShiftFlipConfig = ShiftFlipConfig(padding=0, flip_prob=0.0)

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.decoder = Decoder(config.latent_dim, spec.channels, spec.height, spec.width, config.decoder_width)

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        images = shift_flip(batch.images, self.config.augment, generator) if self.training else batch.images
        return Batch(images, batch.labels)

    def forward(self, batch: Batch, phase: str) -> Output:
        logits = self.decoder(self.encode(batch.images))  # (b, c, h, w)
        return Output(reconstruction_error(logits, batch.images, self.config.error).mean())
