"""Masked autoencoder (He et al. 2022, arXiv:2111.06377).

Notation: n patches of an image, p = patch_size^2 c numbers each; m of them visible; k class tokens, 0 or 1; d and e are
the widths of encoder and decoder. An order (b, n) tells the patches of each image by number, the visible ones first.
"""

from typing import Annotated, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from mlml import distributed, models
from mlml.config import AugmentConfig, Declared, Fraction, Probability, TokenEncoderConfig, TrainConfig
from mlml.data.augment import simclr_view
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.layers.patches import patchify, rows, unpatchify
from mlml.layers.transformer import sine_cosine_positions, transformer
from mlml.method import Method, Output

EPSILON = 1e-6
"""Added to the variance of a patch, as in the authors' code."""

GREY = 0.5
"""What stands for a masked patch in a picture."""


class CropFlip(Declared):
    """Crop at random to the image's size, and mirror at random.

    Attributes:
        min_area: of the crop, as a fraction of the image's; the largest is the image.
        flip_prob: 0 for images with text or digits.
    """

    min_area: Annotated[float, Field(gt=0, le=1)] = 0.2
    flip_prob: Probability = 0.5


class Masked(NamedTuple):
    """Images, and in which order their patches are taken: the visible ones first."""

    images: Float[Tensor, "b c h w"]
    order: Int[Tensor, "b n"]


class MAE(Method):
    """A vision transformer sees a quarter of the patches; a small decoder tells the pixels of the others.

    Section 3 of the paper. The encoder runs on the visible patches alone; a learnt mask token stands for each other in
    the decoder. The loss is the squared error of the masked patches, mean over their numbers. Pixels are normalised by
    the statistics of the data set, as in the authors' code, or each patch by its own. Positions of the decoder are
    fixed sines and cosines; so are those of the encoder unless `learnt_positions`. When evaluated the images are not
    cropped.

    Raises:
        ValueError: the mask leaves no patch visible, or none to tell; widths that sines and cosines or the heads do
            not divide.
    """

    measures = ()

    class Config(Declared):
        """Numbers of MAE; the defaults are the paper's (Table 1 and appendix A.1).

        Attributes:
            mask_ratio: share of the patches that the encoder does not see; their number is rounded.
            decoder_dim: null for half the encoder's, as of the paper's ViT-L.
            decoder_depth: null for a third of the encoder's, at least 1, as of the paper's ViT-L.
            normalise_targets: each patch by its own mean and deviation (the paper's variant in Table 1d).
            learnt_positions: of the encoder; they begin as the network's own.
        """

        encoder: TokenEncoderConfig
        train: TrainConfig
        mask_ratio: Fraction = 0.75
        decoder_dim: PositiveInt | None = None
        decoder_depth: PositiveInt | None = None
        normalise_targets: bool = False
        learnt_positions: bool = False
        augment: CropFlip = CropFlip()

    config: Config
    positions: Tensor

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim
        vit = self._tokens.config
        self.patch_size: int = vit.patch_size
        self.grid = (spec.height // vit.patch_size, spec.width // vit.patch_size)
        n = self.grid[0] * self.grid[1]
        self.num_visible = round(n * (1 - config.mask_ratio))
        dim = vit.dim // 2 if config.decoder_dim is None else config.decoder_dim
        depth = max(1, vit.depth // 3) if config.decoder_depth is None else config.decoder_depth
        p = vit.patch_size**2 * spec.channels
        self._refuse_misfits(n, p, dim)
        crop = (config.augment.min_area, 1.0)
        self.views = AugmentConfig(
            crop_scale=crop, flip_prob=config.augment.flip_prob, jitter_prob=0.0, grey_prob=0.0, blur_prob=0.0
        )
        if not config.learnt_positions:
            with torch.no_grad():
                self._tokens.positions.copy_(self._fixed_positions(vit.dim))
        self.to_decoder = nn.Linear(vit.dim, dim)
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, dim), std=0.02))
        self.register_buffer("positions", self._fixed_positions(dim))
        self.decoder = transformer(dim, vit.num_heads, round(dim * vit.mlp_ratio), 0.0, depth)
        self.to_pixels = nn.Linear(dim, p)

    @property
    def _tokens(self) -> models.Tokens:
        return cast(models.Tokens, self.encoder)  # its config is of a network that says so

    def _fixed_positions(self, dim: int) -> Float[Tensor, "1 t d"]:
        """Zeros for the class token, then sines and cosines."""
        fixed = sine_cosine_positions(*self.grid, dim)
        return torch.cat([torch.zeros(self._tokens.num_class_tokens, dim), fixed])[None]

    def _refuse_misfits(self, n: int, p: int, dim: int) -> None:
        config, vit = self.config, self._tokens.config
        if not 0 < self.num_visible < n:
            raise ValueError(
                f"mae: mask_ratio {config.mask_ratio} of {n} patches leaves {self.num_visible} visible, which must be "
                f"at least 1 and less than {n}; change mask_ratio, or take a smaller encoder.patch_size"
            )
        if dim % 4 or dim % vit.num_heads:
            raise ValueError(
                f"mae: decoder_dim must be a multiple of 4 and of encoder.num_heads, {vit.num_heads}; got {dim}"
                + (f", half of encoder.dim {vit.dim}" if config.decoder_dim is None else "")
            )
        if not config.learnt_positions and vit.dim % 4:
            raise ValueError(
                f"mae: encoder.dim must be a multiple of 4 for positions of sines and cosines; got {vit.dim}; "
                "change it, or set learnt_positions"
            )
        if config.normalise_targets and p < 2:
            raise ValueError("mae: normalise_targets needs patches of 2 numbers at least; got 1; raise patch_size")

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """All but fixed positions of the encoder."""
        fixed = None if self.config.learnt_positions else self._tokens.positions
        return [parameter for parameter in self.parameters() if parameter is not fixed]

    def augment(self, batch: Batch, generator: torch.Generator) -> Masked:
        images = simclr_view(batch.images, self.views, generator) if self.training else batch.images
        return Masked(images, self.draw_order(len(images), generator))

    def draw_order(self, num_images: int, generator: torch.Generator) -> Int[Tensor, "b n"]:
        """Draw a permutation of the patches for each image; the first `num_visible` are to be seen."""
        shape = (distributed.total(num_images), self.grid[0] * self.grid[1])
        draws = distributed.share(torch.rand(shape, generator=generator, device=generator.device))
        return draws.argsort(dim=1, stable=True)

    def forward(self, batch: Masked, phase: str) -> Output:
        images, order = batch
        hidden = order[:, self.num_visible :]  # (b, n - m)
        error = (self.predict(images, order).float() - self.targets_of(images)).square().mean(2)  # (b, n)
        return Output(error.gather(1, hidden).mean())

    def latents(self, images: Float[Tensor, "b c h w"], order: Int[Tensor, "b n"]) -> Float[Tensor, "b k+m d"]:
        """The encoder's features of the class token and of the visible patches, in their order."""
        visible = order[:, : self.num_visible]
        return self._tokens.encode_tokens(rows(self._tokens.tokens(images), visible))

    def predict(self, images: Float[Tensor, "b c h w"], order: Int[Tensor, "b n"]) -> Float[Tensor, "b n p"]:
        """The decoder's pixels of every patch, row by row, as `targets_of` has them."""
        k = self._tokens.num_class_tokens
        seen = self.to_decoder(self.latents(images, order))  # (b, k + m, e)
        b, n = order.shape
        masked = self.mask_token.expand(b, n - self.num_visible, -1)
        patches = rows(torch.cat([seen[:, k:], masked.to(seen.dtype)], 1), order.argsort(1))  # each at its own place
        tokens = torch.cat([seen[:, :k], patches], 1) + self.positions  # (b, k + n, e)
        predicted: Tensor = self.to_pixels(self.decoder(tokens)[:, k:])
        return predicted

    def targets_of(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n p"]:
        """What the decoder is to tell of every patch."""
        if not self.config.normalise_targets:
            return patchify(self.encoder.normalize(images), self.patch_size).float()
        mean, deviation = self._statistics(images)
        return (patchify(images, self.patch_size).float() - mean) / deviation

    def _statistics(self, images: Tensor) -> tuple[Float[Tensor, "b n 1"], Float[Tensor, "b n 1"]]:
        variance, mean = torch.var_mean(patchify(images, self.patch_size).float(), 2, keepdim=True)
        return mean, (variance + EPSILON).sqrt()

    def illustrate(self, images: Float[Tensor, "b c h w"], generator: torch.Generator) -> dict[str, Tensor]:
        """Pictures in [0, 1]: images with the masked patches grey, with them as the decoder tells them, and whole."""
        order = self.draw_order(len(images), generator)
        visible = torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, : self.num_visible], True)
        predicted = self.predict(images, order).float()
        if self.config.normalise_targets:
            mean, deviation = self._statistics(images)
            pixels = unpatchify(predicted * deviation + mean, self.grid, self.patch_size)
        else:
            normalize = self.encoder.normalize
            pixels = unpatchify(predicted, self.grid, self.patch_size) * normalize.std + normalize.mean
        shown = self._pixels_of(visible)
        masked, filled = (torch.where(shown, images, other) for other in (torch.full_like(images, GREY), pixels))
        return {"masked": masked, "filled": filled.clamp(0, 1), "truth": images}

    def _pixels_of(self, patches: Bool[Tensor, "b n"]) -> Bool[Tensor, "b 1 h w"]:
        grid = torch.unflatten(patches, 1, self.grid)[:, None]
        return grid.repeat_interleave(self.patch_size, 2).repeat_interleave(self.patch_size, 3)

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of whole images in [0, 1]: the encoder's."""
        features: Tensor = self.encoder(images)
        return features
