"""Denoising diffusion probabilistic model (Ho et al. 2020, arXiv:2006.11239), with the choices of those after it."""

from contextlib import AbstractContextManager
from typing import Annotated, Literal, NamedTuple, Self

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from mlml.config import (
    AncestralSampler,
    Declared,
    DenoiserConfig,
    SamplerConfig,
    ShiftFlipConfig,
    TrainConfig,
    check_process,
)
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.diffusion.denoiser import Denoiser
from mlml.diffusion.process import Noising, Process
from mlml.method import Method, Output


class Noised(NamedTuple):
    """Images in [0, 1], and what noises them."""

    images: Float[Tensor, "b c h w"]
    noising: Noising


class DDPM(Method):
    """A network learns to tell the noise of an image at any of many noise levels, and so to remove it.

    Algorithm 1 trains, with the simplified objective of Eq. 14; a sampler, by default Algorithm 2, draws. The weights
    to sample from are an average over the last steps in the paper: `train.ema_decay: 0.9999`.

    Raises:
        ValueError: the image does not suit the network.
    """

    measures = ("loss/bin_0", "loss/bin_1", "loss/bin_2", "loss/bin_3")

    class Config(Declared):
        """Numbers of the process; the defaults are the paper's.

        Attributes:
            noise_schedule: "linear" is the paper's, "cosine" that of Nichol & Dhariwal 2021, arXiv:2102.09672.
            prediction: what the network tells: noise, image, or velocity (Salimans & Ho 2022, arXiv:2202.00512).
            clip: whether the estimate of the image is kept in its range while sampling, as in the authors' code.
        """

        train: TrainConfig
        denoiser: DenoiserConfig = DenoiserConfig()
        noise_schedule: Literal["linear", "cosine"] = "linear"
        timesteps: Annotated[int, Field(ge=2)] = 1000
        prediction: Literal["epsilon", "x0", "v"] = "epsilon"
        clip: bool = True
        sampler: SamplerConfig = AncestralSampler(name="ddpm")
        augment: ShiftFlipConfig = ShiftFlipConfig(padding=0, flip_prob=0.0)

        @model_validator(mode="after")
        def _fits(self) -> Self:
            check_process(self.noise_schedule, self.timesteps, self.sampler)
            return self

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.process = Process(config)
        self.shape = (spec.channels, spec.height, spec.width)
        self.denoiser = Denoiser(config.denoiser, spec.channels, spec.channels, (spec.height, spec.width))

    def augment(self, batch: Batch, generator: torch.Generator) -> Noised:
        images = shift_flip(batch.images, self.config.augment, generator) if self.training else batch.images
        return Noised(images, self.process.draw(images, generator))

    def forward(self, batch: Noised, phase: str) -> Output:
        return self.process.loss(batch.images, batch.noising, self.denoiser)

    @torch.no_grad()
    def sample(self, num_samples: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw images in [0, 1] by the declared sampler."""
        denoise = self.process.denoise(self.denoiser)
        return self.process.sample(denoise, (num_samples, *self.shape), generator)

    def in_steps(self, steps: int) -> AbstractContextManager[None]:
        """Within the block, draw in so many steps."""
        return self.process.in_steps(steps)

    @torch.no_grad()
    def film(
        self, images: Float[Tensor, "b c h w"], num_frames: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "b s c h w"], Float[Tensor, "b s c h w"]]:
        """Frames of these images becoming noise, and of noise becoming as many new images."""
        return self.process.film(self.process.denoise(self.denoiser), images, num_frames, generator)
