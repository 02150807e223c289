"""Generative adversarial network (Goodfellow et al. 2014, arXiv:1406.2661), with DCGAN's networks.

Notation as in `mlml.generative._adversarial`.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Self

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from mlml import distributed
from mlml.config import Declared, PlainNorm, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.generative import _adversarial as adversarial
from mlml.layers.deconvolution import Decoder
from mlml.layers.discriminator import ConvDiscriminator, normalise_spectrally
from mlml.method import Method, Output


class Drawn(NamedTuple):
    """Real images in [0, 1], and the latent vectors of as many others."""

    images: Float[Tensor, "b c h w"]
    latents: Float[Tensor, "b d"]


class GAN(Method):
    """A generator learns to make images that a discriminator cannot tell from real ones.

    A step is Goodfellow et al. 2014, Algorithm 1: `discriminator_steps` (k) updates of the discriminator, each on a
    batch of its own, then one of the generator. The networks are those of Radford et al. 2016 (DCGAN),
    arXiv:1511.06434, but for upsampling convolutions in the place of transposed ones; its optimizer is Adam with a
    learning rate of 0.0002 and beta1 of 0.5.

    What is evaluated is the generator's loss, which says how the game stands and not how good the images are.
    """

    phases: tuple[str, ...] = ("discriminator", "generator")
    measures = ("diversity",)
    loss_falls = False  # what it is measured by, the other player, learns too

    class Config(Declared):
        """Numbers of the GAN.

        Attributes:
            prior: of latent vectors; "uniform" in [-1, 1].
            loss: "minimax" is the game of Eq. 1, whose generator learns nothing while it is found out; "non_saturating"
                is what the paper trains instead; "hinge" that of Lim & Ye 2017, arXiv:1705.02894, and Miyato et al.
                2018.
            spectral_norm: of every weight of the discriminator (Miyato et al. 2018, arXiv:1802.05957).
            r1_gamma: weight of the penalty of its gradient at real images (Mescheder et al. 2018, arXiv:1801.04406,
                Eq. 9); they take 10.
            discriminator_norm: null is batch norm, as in DCGAN, and none with `spectral_norm` or `r1_gamma`, as in
                their papers. An image's gradient is its own only where no norm mixes images.
            generator_rate: what the generator's learning rate is of the declared one; below 1 the discriminator is the
                faster (Heusel et al. 2017, arXiv:1706.08500).
            generator_width: channels of its features at full size.
            discriminator_width: channels of its first convolution.
        """

        train: TrainConfig
        latent_dim: PositiveInt = 100
        prior: Literal["uniform", "normal"] = "uniform"
        loss: Literal["minimax", "non_saturating", "hinge"] = "non_saturating"
        spectral_norm: bool = False
        r1_gamma: NonNegativeFloat = 0.0
        discriminator_norm: Literal["batch", "layer", "instance", "none"] | None = None
        discriminator_steps: PositiveInt = 1
        generator_rate: PositiveFloat = 1.0
        generator_width: PositiveInt = 64
        discriminator_width: PositiveInt = 64
        augment: ShiftFlipConfig = ShiftFlipConfig(padding=0, flip_prob=0.0)

        @model_validator(mode="after")
        def _own_gradients(self) -> Self:
            if self.r1_gamma > 0 and self.discriminator_norm == "batch":
                raise ValueError("discriminator_norm must not be 'batch' where r1_gamma is above 0; it mixes images")
            return self

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        size = (spec.height, spec.width)
        self.generator = Decoder(config.latent_dim, spec.channels, *size, config.generator_width)
        norm = config.discriminator_norm or ("none" if config.spectral_norm or config.r1_gamma else "batch")
        self.discriminator = ConvDiscriminator(spec.channels, *size, config.discriminator_width, PlainNorm(name=norm))
        for player in (self.generator, self.discriminator):
            adversarial.initialise_as_dcgan(player)
        if config.spectral_norm:
            normalise_spectrally(self.discriminator)
        self.phases = ("discriminator",) * config.discriminator_steps + ("generator",)

    def augment(self, batch: Batch, generator: torch.Generator) -> Drawn:
        images = shift_flip(batch.images, self.config.augment, generator) if self.training else batch.images
        return Drawn(images, distributed.share(self._latents(distributed.total(len(images)), generator)))

    def phase_parameters(self, phase: str) -> Iterable[nn.Parameter]:
        return (self.discriminator if phase == "discriminator" else self.generator).parameters()

    def rate_factors(self, phase: str) -> Mapping[nn.Parameter, float]:
        return adversarial.rates(self.generator, self.config.generator_rate) if phase == "generator" else {}

    def forward(self, batch: Drawn, phase: str) -> Output:
        config, images = self.config, 2 * batch.images - 1
        if phase == "generator":
            made = self._made(batch.latents)
            loss = adversarial.generator_loss(config.loss, self._judged(made))
            return Output(loss, {"diversity": adversarial.diversity(made, images)})
        with torch.no_grad():
            made = self._made(batch.latents)
        real, penalty = adversarial.judged_with_r1(self._judged, images, config.r1_gamma)
        fake = self._judged(made)
        loss = adversarial.discriminator_loss(config.loss, real, fake) + penalty
        return Output(loss, adversarial.standing(real, fake))

    @torch.no_grad()
    def sample(self, num_samples: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Images in [0, 1] of draws of the prior."""
        return (self._made(self._latents(num_samples, generator)) + 1) / 2

    def _latents(self, num_latents: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        return adversarial.draw_latents(self.config.prior, num_latents, self.config.latent_dim, generator)

    def _made(self, latents: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        """Images in [-1, 1] of latent vectors."""
        made: Tensor = self.generator(latents).float().tanh()
        return made

    def _judged(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Logits of being real, of images in [-1, 1]."""
        logits: Tensor = self.discriminator(images)
        return logits.float()
