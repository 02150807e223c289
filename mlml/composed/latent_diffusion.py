"""Latent diffusion (Rombach et al. 2022, arXiv:2112.10752): diffusion of the latents of a trained autoencoder.

Notation: z (b, d) is a draw of the base's posterior of an image, `mu` and `log_var` (b, d) its mean and log variance;
x_0 is z standardised; the rest is that of `mlml.diffusion.process`.
"""

from contextlib import AbstractContextManager
from typing import Annotated, Literal, NamedTuple, Self, cast

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from mlml import distributed
from mlml.config import (
    AncestralSampler,
    ComposedConfig,
    SamplerConfig,
    TrainConfig,
    VectorDenoiserConfig,
    check_process,
)
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.diffusion.perceptron import VectorDenoiser
from mlml.diffusion.process import Noising, Process
from mlml.generative._variational import draw, great_circle
from mlml.method import Composed, Infers, Method, Output


class Noised(NamedTuple):
    """Images in [0, 1], the standard normal noise of their draws of z, and what noises those."""

    images: Float[Tensor, "b c h w"]
    noise: Float[Tensor, "b d"]
    noising: Noising


class LatentDiffusion(Composed):
    """A denoiser learns the distribution of a trained autoencoder's latents, whose decoder makes images of new ones.

    Eq. 2 of the paper, on draws of the posterior. There the latents are grids and the denoiser a U-Net; ours are
    vectors, and the denoiser a residual perceptron. Appendix G of the paper divides the latents by their standard
    deviation, that of the first batch; here each component has its own mean and deviation, those of all train batches
    so far, of which the first few already tell nearly all.

    Attributes:
        num_seen: images of which `mean` and `variance` tell.
        mean: of z over the train batches, (d,).
        variance: the same.
    """

    measures = ("loss/bin_0", "loss/bin_1", "loss/bin_2", "loss/bin_3")
    base_families = ("generative", "composed")
    base_needs = ("infer", "decode")

    class Config(ComposedConfig):
        """Numbers of the process; the defaults are those of `ddpm`, but for the prediction.

        Attributes:
            prediction: what the network tells: velocity, latent, or noise, which is the paper's. An estimate of a
                latent has no range to be kept in, and one from the noise has its error over the signal: where a
                schedule leaves hardly any, as both do in the end, samples go astray.
        """

        train: TrainConfig
        denoiser: VectorDenoiserConfig = VectorDenoiserConfig()
        noise_schedule: Literal["linear", "cosine"] = "linear"
        timesteps: Annotated[int, Field(ge=2)] = 1000
        prediction: Literal["epsilon", "x0", "v"] = "v"
        sampler: SamplerConfig = AncestralSampler(name="ddpm")

        @model_validator(mode="after")
        def _fits(self) -> Self:
            check_process(self.noise_schedule, self.timesteps, self.sampler)
            return self

        @property
        def clip(self) -> bool:
            """Whether an estimate is kept in a range: a latent has none."""
            return False

    config: Config
    num_seen: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, config: Config, spec: DataSpec, base: Method) -> None:
        super().__init__(config, spec, base)
        device = next(base.parameters()).device
        with torch.no_grad():
            latents, _ = self._autoencoder().infer(
                torch.zeros(1, spec.channels, spec.height, spec.width, device=device)
            )
        self.latent_dim = latents.shape[1]
        self.process = Process(config)
        self.denoiser = VectorDenoiser(config.denoiser, self.latent_dim)
        self.register_buffer("num_seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(self.latent_dim))
        self.register_buffer("variance", torch.ones(self.latent_dim))

    def augment(self, batch: Batch, generator: torch.Generator) -> Noised:
        shape = (len(batch.images), self.latent_dim)
        noise = torch.randn(distributed.total(shape[0]), shape[1], generator=generator, device=batch.images.device)
        return Noised(batch.images, distributed.share(noise), self.process.draw_shape(shape, generator))

    def forward(self, batch: Noised, phase: str) -> Output:
        with torch.no_grad():
            mu, log_var = (part.float() for part in self._autoencoder().infer(batch.images))
            if self.training:
                self._see(mu, log_var)
            x0 = self.standardised(draw(mu, log_var, batch.noise))
        return self.process.objective(x0, batch.noising, self.denoiser)

    def standardised(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Latents less their mean, over their deviation."""
        return (z - self.mean) / self._deviation()

    def decode(self, x0: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1] of standardised latents, by the base."""
        return self._autoencoder().decode(self.mean + self._deviation() * x0)

    @torch.no_grad()
    def sample(self, num_samples: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw latents by the declared sampler, and decode them to images in [0, 1]."""
        denoise = self.process.denoise(self.denoiser)
        return self.decode(self.process.sample_x0(denoise, (num_samples, self.latent_dim), generator))

    def in_steps(self, steps: int) -> AbstractContextManager[None]:
        """Within the block, draw in so many steps."""
        return self.process.in_steps(steps)

    @torch.no_grad()
    def film(
        self, images: Float[Tensor, "b c h w"], num_frames: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "b s c h w"], Float[Tensor, "b s c h w"]]:
        """Decoded frames of these images' latents becoming noise, and of noise becoming as many new latents."""
        x0 = self.standardised(self._autoencoder().infer(images)[0])
        ways = self.process.ways(self.process.denoise(self.denoiser), x0, num_frames, generator)
        forward, reverse = (torch.stack([self.decode(x) for x in way], 1) for way in ways)
        return forward, reverse

    def reconstruct(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Images that the base decodes from the posterior's mean: the best that samples can be."""
        autoencoder = self._autoencoder()
        return autoencoder.decode(autoencoder.infer(images)[0])

    def interpolate(
        self, first: Float[Tensor, "b c h w"], last: Float[Tensor, "b c h w"], steps: int
    ) -> Float[Tensor, "b s c h w"]:
        """Decoded points of the great circle between two images' standardised latents, both ends included."""
        z0, z1 = (self.standardised(self._autoencoder().infer(images)[0]) for images in (first, last))
        return torch.unflatten(self.decode(great_circle(z0, z1, steps).flatten(0, 1)), 0, (len(first), steps))

    def _autoencoder(self) -> Infers:
        """The base."""
        return cast(Infers, self.base)

    def _deviation(self) -> Float[Tensor, " d"]:
        """Of each component; one that never varies is left as it is."""
        return torch.where(self.variance > 0, self.variance, torch.ones_like(self.variance)).sqrt()

    def _see(self, mu: Float[Tensor, "b d"], log_var: Float[Tensor, "b d"]) -> None:
        """Merge mean and variance of z over the batch of all ranks into those before it (Chan et al. 1979).

        The variance of z is that of the means and the mean of the variances; no draw is needed.
        """
        mean = distributed.mean(mu.mean(0))
        variance = distributed.mean(((mu - mean).square() + log_var.exp()).mean(0))
        count = distributed.total(len(mu))
        share = count / (self.num_seen + count)
        away = mean - self.mean
        self.variance.copy_((1 - share) * self.variance + share * variance + share * (1 - share) * away.square())
        self.mean.add_(share * away)
        self.num_seen.add_(count)
