"""Wasserstein GAN with gradient penalty (Gulrajani et al. 2017, arXiv:1704.00028).

Notation as in `mlml.generative._adversarial`; `epsilon` (b,) places an image x_hat between a real and a generated one.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from mlml import distributed
from mlml.config import Declared, PlainNorm, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.generative import _adversarial as adversarial
from mlml.layers.deconvolution import Decoder
from mlml.layers.discriminator import ConvDiscriminator
from mlml.method import Method, Output


class Drawn(NamedTuple):
    """Real images in [0, 1], the latent vectors of as many others, and where between the two the critic is held."""

    images: Float[Tensor, "b c h w"]
    latents: Float[Tensor, "b d"]
    epsilon: Float[Tensor, " b"]


class WGANGP(Method):
    """A critic estimates how far generated images are from real ones, and a generator shortens the way.

    A step is Gulrajani et al. 2017, Algorithm 1: `critic_steps` (n_critic) updates of the critic by Eq. 3, each on a
    batch of its own, then one of the generator. That the critic is nearly 1-Lipschitz, as the Wasserstein distance
    asks (Eq. 2), comes from the penalty. The optimizer of Algorithm 1 is Adam with a learning rate of 0.0001, beta1 of
    0 and beta2 of 0.9.

    `margin`, the loss of the generator, is the critic's estimate of the distance, Eq. 2; it falls as images get better.
    """

    phases: tuple[str, ...] = ("critic", "generator")
    measures = ("diversity",)
    loss_falls = False  # what it is measured by, the other player, learns too

    class Config(Declared):
        """Numbers of WGAN-GP; the paper's, but for the widths.

        Attributes:
            penalty: lambda of Eq. 3.
            critic_norm: batch norm is none of them, for the penalty is of each image's own gradient (section 4, "No
                critic batch normalization").
            generator_rate: what the generator's learning rate is of the declared one.
            generator_width: channels of its features at full size.
            critic_width: channels of its first convolution.
        """

        train: TrainConfig
        latent_dim: PositiveInt = 128
        penalty: NonNegativeFloat = 10.0
        critic_norm: Literal["layer", "instance", "none"] = "layer"
        critic_steps: PositiveInt = 5
        generator_rate: PositiveFloat = 1.0
        generator_width: PositiveInt = 64
        critic_width: PositiveInt = 64
        augment: ShiftFlipConfig = ShiftFlipConfig(padding=0, flip_prob=0.0)

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        size = (spec.height, spec.width)
        self.generator = Decoder(config.latent_dim, spec.channels, *size, config.generator_width)
        norm = PlainNorm(name=config.critic_norm)
        self.critic = ConvDiscriminator(spec.channels, *size, config.critic_width, norm, last_bias=False)
        for player in (self.generator, self.critic):
            adversarial.initialise_as_dcgan(player)
        self.phases = ("critic",) * config.critic_steps + ("generator",)

    def augment(self, batch: Batch, generator: torch.Generator) -> Drawn:
        images = shift_flip(batch.images, self.config.augment, generator) if self.training else batch.images
        count = distributed.total(len(images))
        latents = distributed.share(self._latents(count, generator))
        return Drawn(images, latents, distributed.share(torch.rand(count, generator=generator, device=images.device)))

    def phase_parameters(self, phase: str) -> Iterable[nn.Parameter]:
        return (self.critic if phase == "critic" else self.generator).parameters()

    def rate_factors(self, phase: str) -> Mapping[nn.Parameter, float]:
        return adversarial.rates(self.generator, self.config.generator_rate) if phase == "generator" else {}

    def forward(self, batch: Drawn, phase: str) -> Output:
        images = 2 * batch.images - 1
        with torch.set_grad_enabled(phase == "generator" and torch.is_grad_enabled()):
            made = self._made(batch.latents)
        margin = self._judged(images).mean() - self._judged(made).mean()
        if phase == "generator":  # the first term has no gradient, but without it the loss would have no zero
            return Output(margin, {"diversity": adversarial.diversity(made, images)})
        between = torch.lerp(made, images, batch.epsilon[:, None, None, None])  # x_hat of Algorithm 1, line 6
        _, gradient = adversarial.with_gradient(self._judged, between)
        penalty = adversarial.gradient_penalty(gradient)
        return Output(self.config.penalty * penalty - margin, {"margin": margin, "penalty": penalty})

    @torch.no_grad()
    def sample(self, num_samples: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Images in [0, 1] of draws of the prior, a standard normal."""
        return (self._made(self._latents(num_samples, generator)) + 1) / 2

    def _latents(self, num_latents: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        return adversarial.draw_latents("normal", num_latents, self.config.latent_dim, generator)

    def _made(self, latents: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        """Images in [-1, 1] of latent vectors."""
        made: Tensor = self.generator(latents).float().tanh()
        return made

    def _judged(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """The critic's scores of images in [-1, 1]."""
        scores: Tensor = self.critic(images)
        return scores.float()
