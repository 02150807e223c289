"""GLIDE: images from captions, and edits of them (Nichol et al. 2022, arXiv:2112.10741), for small images."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Literal, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor

from mlml import distributed
from mlml.config import (
    AncestralSampler,
    Declared,
    DenoiserConfig,
    Probability,
    SamplerConfig,
    SNRRange,
    TextEncoderConfig,
    TrainConfig,
    check_process,
)
from mlml.data.batches import Batch
from mlml.data.captions import PADDING
from mlml.data.dataset import DataSpec
from mlml.data.masks import block_mask
from mlml.diffusion.denoiser import Denoiser
from mlml.diffusion.process import Noising, Predict, Process, guided
from mlml.diffusion.samplers import Denoise
from mlml.diffusion.text import TextEncoder
from mlml.method import Method, Output


class Captioned(NamedTuple):
    """Images in [0, 1], what noises them, the tokens of their captions, and what is erased of them: 1 where it is."""

    images: Float[Tensor, "b c h w"]
    noising: Noising
    tokens: Int[Tensor, "b l"]
    erased: Float[Tensor, "b 1 h w"]


class GLIDE(Method):
    """A denoiser that reads a caption, and sees what an edit is to keep.

    Section 4: the transformer's last token stands in for a class, and all tokens are context of every attention.
    Section 2.3: the caption of some images is dropped in training, and sampling goes from the prediction without
    caption beyond the one with it. Section 4.1, "image inpainting": the denoiser takes the image without the erased
    region, and a mask of that, as further channels. Where the paper trains edits afterwards, here a share of the
    images of every batch has a block erased, and the others all of themselves, which is to draw from nothing.

    The paper's 3.5 billion parameters, its upsampler and its CLIP are left out.

    Raises:
        ValueError: the data has no captions; or as `DDPM`.
    """

    measures = ("loss/bin_0", "loss/bin_1", "loss/bin_2", "loss/bin_3")
    targets = "captions"

    class Config(Declared):
        """Numbers of the process, of the encoder of captions and of the guidance.

        Attributes:
            drop_prob: share of the images whose caption is dropped; section 4.
            edit_prob: share of the images of which only a block is erased.
            erased_area: the most that is erased of those, as a fraction of the area.
            guidance_scale: s of section 2.3; 1 is no guidance.
            prediction: what the network tells.
            snr_range: bounds of the weight of a timestep, where all do not weigh the same: `mlml.diffusion.process`.
            clip: whether the estimate of the image is kept in its range while sampling.
        """

        train: TrainConfig
        denoiser: DenoiserConfig = DenoiserConfig()
        text: TextEncoderConfig = TextEncoderConfig()
        drop_prob: Probability = 0.2
        edit_prob: Probability = 0.5
        erased_area: Annotated[float, Field(gt=0, le=1)] = 0.5
        guidance_scale: NonNegativeFloat = 3.0
        noise_schedule: Literal["linear", "cosine"] = "cosine"
        timesteps: Annotated[int, Field(ge=2)] = 1000
        prediction: Literal["epsilon", "x0", "v"] = "epsilon"
        snr_range: SNRRange | None = None
        clip: bool = True
        sampler: SamplerConfig = AncestralSampler(name="ddpm")

        @model_validator(mode="after")
        def _fits(self) -> Self:
            check_process(self.noise_schedule, self.timesteps, self.sampler)
            return self

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not spec.vocabulary:
            raise ValueError(
                f"glide: the data must have captions; {spec.name!r} has none, or was prepared without words"
            )
        self.process = Process(config, config.snr_range)
        self.shape = (spec.channels, spec.height, spec.width)
        self.text = TextEncoder(config.text, spec.vocabulary, spec.caption_length)
        dim = config.text.dim
        self.denoiser = Denoiser(config.denoiser, 2 * spec.channels + 1, spec.channels, self.shape[1:], dim, dim)

    def augment(self, batch: Batch, generator: torch.Generator) -> Captioned:
        images, tokens = batch
        noising = self.process.draw(images, generator)
        block = block_mask(len(images), self.shape[1:], 1, self.config.erased_area, generator)
        draws = torch.rand((2, distributed.total(len(images))), generator=generator, device=images.device)
        edited, dropped = distributed.share(draws, dim=1)  # (b,), (b,)
        erased = torch.where((edited < self.config.edit_prob)[:, None, None, None], block, 1.0)
        if self.training:
            tokens = tokens.masked_fill((dropped < self.config.drop_prob)[:, None], PADDING)
        return Captioned(images, noising, tokens, erased)

    def forward(self, batch: Captioned, phase: str) -> Output:
        predict = self._predict(batch.tokens, batch.images, batch.erased)
        return self.process.loss(batch.images, batch.noising, predict)

    def sample(self, num_samples: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw images in [0, 1] without a caption."""
        return self.sample_texts([""] * num_samples, generator, 1.0)

    @torch.no_grad()
    def sample_texts(
        self, texts: Sequence[str], generator: torch.Generator, guidance_scale: float | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Draw an image in [0, 1] of each text.

        Raises:
            ValueError: a text has a word that the train captions have not, or more words.
        """
        denoise = self._denoise(self.text.tokenise(texts), guidance_scale)
        return self.process.sample(denoise, (len(texts), *self.shape), generator)

    @torch.no_grad()
    def edit(
        self,
        images: Float[Tensor, "n c h w"],
        masks: Bool[Tensor, "n h w"],
        texts: Sequence[str],
        generator: torch.Generator,
        guidance_scale: float | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Paint anew where the mask is true, as the texts say; elsewhere the image stays bit for bit.

        The estimate of the image is held to what is known of it at every step, as in the authors' code.

        Raises:
            ValueError: as `sample_texts`.
        """
        erased = masks[:, None]  # (n, 1, h, w)
        estimate = self._denoise(self.text.tokenise(texts), guidance_scale, images, erased.float())

        def denoise(x: Tensor, t: float) -> Tensor:
            return torch.where(erased, estimate(x, t), 2 * images - 1)

        painted = self.process.sample(denoise, tuple(images.shape), generator)
        return torch.where(erased, painted, images)

    def in_steps(self, steps: int) -> AbstractContextManager[None]:
        """Within the block, draw in so many steps."""
        return self.process.in_steps(steps)

    @torch.no_grad()
    def film(
        self, images: Float[Tensor, "b c h w"], num_frames: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "b s c h w"], Float[Tensor, "b s c h w"]]:
        """Frames of these images becoming noise, and of noise becoming as many images without a caption."""
        denoise = self._denoise(self.text.tokenise([""] * len(images)), 1.0)
        return self.process.film(denoise, images, num_frames, generator)

    def _denoise(
        self, tokens: Tensor, guidance_scale: float | None, images: Tensor | None = None, erased: Tensor | None = None
    ) -> Denoise:
        """Estimates for images of these captions, all of them erased if not told; unguided it runs on half as much."""
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        if images is None or erased is None:
            images = torch.zeros(len(tokens), *self.shape, device=tokens.device)
            erased = torch.ones_like(images[:, :1])
        if scale == 1:
            return self.process.denoise(self._predict(tokens, images, erased))
        known = (images.repeat(2, 1, 1, 1), erased.repeat(2, 1, 1, 1))
        both = self._predict(torch.cat([tokens, torch.full_like(tokens, PADDING)]), *known)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            conditional, unconditional = both(x.repeat(2, 1, 1, 1), t.repeat(2)).chunk(2)
            return guided(conditional, unconditional, scale)

        return self.process.denoise(predict)

    def _predict(self, tokens: Tensor, images: Tensor, erased: Tensor) -> Predict:
        """The network for these captions, and for what is left of these images."""
        whole, each = self.text(tokens)
        seen = torch.cat([(2 * images - 1) * (1 - erased), erased], 1)  # (b, c + 1, h, w)
        return lambda x, t: self.denoiser(torch.cat([x, seen], 1), t, whole, each)
