"""Diffusion of classes with classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598)."""

from contextlib import AbstractContextManager
from typing import Annotated, Literal, NamedTuple, Self

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor, nn

from mlml import distributed
from mlml.config import (
    AncestralSampler,
    Declared,
    DenoiserConfig,
    Probability,
    SamplerConfig,
    ShiftFlipConfig,
    TrainConfig,
    check_process,
)
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.diffusion.denoiser import Denoiser
from mlml.diffusion.process import Noising, Process, guided
from mlml.diffusion.samplers import Denoise
from mlml.method import Method, Output


class Labelled(NamedTuple):
    """Images in [0, 1], what noises them, and their classes; the number after the last class is none."""

    images: Float[Tensor, "b c h w"]
    noising: Noising
    labels: Int[Tensor, " b"]


class GuidedDiffusion(Method):
    """One network learns to denoise with and without knowing the class; the difference guides the samples.

    Algorithm 1 of the paper: the class of some images is dropped. In sampling, Eq. 6 goes from the prediction without
    class towards and beyond the one with it. Class and time are added (Dhariwal & Nichol 2021, arXiv:2105.05233).

    Raises:
        ValueError: the data has no classes; or as `DDPM`.
    """

    measures = ("loss/bin_0", "loss/bin_1", "loss/bin_2", "loss/bin_3")
    reads_labels = True

    class Config(Declared):
        """Numbers of the process and of the guidance.

        Attributes:
            drop_prob: share of the images whose class is dropped, p_uncond of the paper.
            guidance_scale: 1 + w of Eq. 6; 1 is no guidance. The paper's best FID is at w of 0.1 to 0.3.
            noise_schedule: "cosine" is near the paper's, "linear" that of Ho et al. 2020.
            prediction: what the network tells.
            clip: whether the estimate of the image is kept in its range while sampling.
        """

        train: TrainConfig
        denoiser: DenoiserConfig = DenoiserConfig()
        drop_prob: Probability = 0.1
        guidance_scale: NonNegativeFloat = 1.3
        noise_schedule: Literal["linear", "cosine"] = "cosine"
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
        if not spec.classes:
            raise ValueError(f"guided_diffusion: the data must have classes; {spec.name!r} has none")
        self.process = Process(config)
        self.shape = (spec.channels, spec.height, spec.width)
        dim = config.denoiser.width
        self.classes = nn.Embedding(len(spec.classes) + 1, dim)  # the last is no class
        self.denoiser = Denoiser(config.denoiser, spec.channels, spec.channels, self.shape[1:], condition_dim=dim)

    def augment(self, batch: Batch, generator: torch.Generator) -> Labelled:
        images, labels = batch
        if self.training:
            images = shift_flip(images, self.config.augment, generator)
        noising = self.process.draw(images, generator)
        if self.training:
            draws = torch.rand(distributed.total(len(images)), generator=generator, device=images.device)
            dropped = distributed.share(draws) < self.config.drop_prob
            labels = labels.masked_fill(dropped, len(self.spec.classes))
        return Labelled(images, noising, labels)

    def forward(self, batch: Labelled, phase: str) -> Output:
        condition = self.classes(batch.labels)
        return self.process.loss(batch.images, batch.noising, lambda x, t: self.denoiser(x, t, condition))

    def sample(self, num_samples: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw images in [0, 1] of each class in turn."""
        labels = torch.arange(num_samples, device=self.classes.weight.device) % len(self.spec.classes)
        return self.sample_classes(labels, generator)

    @torch.no_grad()
    def sample_classes(
        self, labels: Int[Tensor, " n"], generator: torch.Generator, guidance_scale: float | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Draw an image in [0, 1] of each class, by the declared guidance or another."""
        return self.process.sample(self._denoise(labels, guidance_scale), (len(labels), *self.shape), generator)

    def sample_guided(
        self, num_samples: int, guidance_scale: float, generator: torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        """Draw images of each class in turn by this guidance."""
        labels = torch.arange(num_samples, device=self.classes.weight.device) % len(self.spec.classes)
        return self.sample_classes(labels, generator, guidance_scale)

    def in_steps(self, steps: int) -> AbstractContextManager[None]:
        """Within the block, draw in so many steps."""
        return self.process.in_steps(steps)

    @torch.no_grad()
    def film(
        self, images: Float[Tensor, "b c h w"], num_frames: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "b s c h w"], Float[Tensor, "b s c h w"]]:
        """Frames of these images becoming noise, and of noise becoming an image of each class in turn."""
        labels = torch.arange(len(images), device=images.device) % len(self.spec.classes)
        return self.process.film(self._denoise(labels, None), images, num_frames, generator)

    def _denoise(self, labels: Tensor, guidance_scale: float | None) -> Denoise:
        """Estimates for images of these classes; without guidance the network runs on half as much."""
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        condition, none = self.classes(labels), self.classes(torch.full_like(labels, len(self.spec.classes)))

        def predict(x: Tensor, t: Tensor) -> Tensor:
            if scale == 1:
                return self.denoiser(x, t, condition)  # type: ignore[no-any-return]
            both = self.denoiser(x.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([condition, none]))
            conditional, unconditional = both.chunk(2)
            return guided(conditional, unconditional, scale)

        return self.process.denoise(predict)
