"""Denoising autoencoder (Vincent et al. 2008, ICML; 2010, JMLR 11:3371)."""

from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from mlml.config import Declared, EncoderConfig, Fraction, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.corruption import add_gaussian, mask, salt_and_pepper
from mlml.data.dataset import DataSpec
from mlml.layers.deconvolution import Decoder
from mlml.method import Output
from mlml.pretext._autoencoding import Autoencoding, reconstruction_error


class GaussianNoise(Declared):
    """Normal noise is added to each component."""

    name: Literal["gaussian"] = "gaussian"
    std: PositiveFloat = 0.3


class MaskingNoise(Declared):
    """A fraction of the components of each image is set to 0."""

    name: Literal["masking"] = "masking"
    fraction: Fraction = 0.25


class SaltAndPepperNoise(Declared):
    """A fraction of the components of each image is set to 0 or 1, by a fair coin."""

    name: Literal["salt_and_pepper"] = "salt_and_pepper"
    fraction: Fraction = 0.25


class Noisy(NamedTuple):
    """Images as they are, and corrupted."""

    images: Float[Tensor, "b c h w"]
    corrupted: Float[Tensor, "b c h w"]


class Denoising(Autoencoding):
    """From a corrupted image the autoencoder is to tell the image as it was.

    Vincent et al. 2010, section 3.1; the corruptions are those of their section 3.3. Images are corrupted
    when evaluated, too. Features, reconstructions and interpolations are of images as they are.
    """

    measures = ()

    class Config(Declared):
        """Numbers of the denoising autoencoder; those of the corruptions are among the paper's.

        Attributes:
            latent_dim: may be wider than the image: the corruption keeps the code from being a copy.
            decoder_width: channels of the decoder at the image's full size.
            error: cross entropy of the pixels, or half their squared error.
        """

        encoder: EncoderConfig
        train: TrainConfig
        latent_dim: PositiveInt = 128
        decoder_width: PositiveInt = 32
        error: Literal["cross_entropy", "squared"] = "cross_entropy"
        corruption: Annotated[GaussianNoise | MaskingNoise | SaltAndPepperNoise, Field(discriminator="name")] = (
            MaskingNoise()
        )
        augment: ShiftFlipConfig = ShiftFlipConfig(padding=0, flip_prob=0.0)

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.decoder = Decoder(config.latent_dim, spec.channels, spec.height, spec.width, config.decoder_width)

    def augment(self, batch: Batch, generator: torch.Generator) -> Noisy:
        images = shift_flip(batch.images, self.config.augment, generator) if self.training else batch.images
        return Noisy(images, self.corrupt(images, generator))

    def corrupt(self, images: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        """Corrupt images as declared; normal noise may lead out of [0, 1]."""
        noise = self.config.corruption
        if noise.name == "gaussian":
            return add_gaussian(images, noise.std, generator)
        if noise.name == "masking":
            return mask(images, noise.fraction, generator)
        return salt_and_pepper(images, noise.fraction, generator)

    def forward(self, batch: Noisy, phase: str) -> Output:
        logits = self.decoder(self.encode(batch.corrupted))  # (b, c, h, w)
        return Output(reconstruction_error(logits, batch.images, self.config.error).mean())

    def illustrate(self, images: Float[Tensor, "b c h w"], generator: torch.Generator) -> dict[str, Tensor]:
        """Pictures in [0, 1]: images corrupted, what the autoencoder makes of those, and images as they are."""
        corrupted = self.corrupt(images, generator)
        return {"corrupted": corrupted.clamp(0, 1), "denoised": self.reconstruct(corrupted), "truth": images}
