"""Jigsaw puzzles (Noroozi & Favaro 2016, arXiv:1603.09246)."""

import math
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from mlml import distributed, models
from mlml.config import Declared, EncoderConfig, Probability, ShiftFlipConfig, TrainConfig
from mlml.data import tiles
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.color import greyscale
from mlml.data.dataset import DataSpec
from mlml.layers.heads import projection_head
from mlml.method import Method, Output

PAPERS_PERMUTATIONS = 1000


class Puzzles(NamedTuple):
    """Shuffled tiles of each image, and which of the permutations each is."""

    tiles: Float[Tensor, "b n c s s"]  # position j holds tile permutations[order][j]
    order: Int[Tensor, " b"]


class Jigsaw(Method):
    """An encoder learns to tell in which order the tiles of an image lie.

    The same encoder sees every tile; its features, concatenated by position, go through a hidden layer to the index of
    the permutation among a set whose members are far from each other (section 3.1 and Algorithm 1). Against shortcuts
    (section 3.3) a tile lies at a random place in its cell, so that there are gaps between tiles, some images are made
    grey, and each channel of a tile is normalised by its own mean and deviation; then it is brought to the mean and
    deviation of the data, which the encoder's own normalisation takes away again. The paper also shifts the channels of
    a tile against each other by up to 2 pixels, against the aberration of lenses; that is not done here.

    An encoder must give features of whole images too, so a tile is resampled to the image's size, which every network
    takes. That costs a pass through the encoder for every tile; networks of convolutions take smaller tiles, by
    `tile_size`. Where the image does not divide into the grid, the lengths of cells differ by one pixel.

    Raises:
        ValueError: the images are too small for the grid, or the network does not take tiles of `tile_size`.
    """

    measures = ("accuracy",)
    permutations: Tensor

    class Config(Declared):
        """Numbers of jigsaw puzzles; the defaults are the paper's.

        Attributes:
            grid: tiles along a side.
            num_permutations: null: the paper's 1000, or all 24 of a grid of 2.
            permutation_seed: of the first permutation, from which the others follow. No seed of a run: all runs solve
                the same puzzles.
            tile_fraction: side of a tile as a fraction of its cell's, the paper's 64 of 75 pixels; at least 2 pixels.
            tile_size: pixels along a side of the tiles that the encoder sees; null: those of the image.
            hidden_dim: width of the layer after the concatenated features; null: as wide as these (the paper: 4096
                after 4608).
            grey_prob: how often an image is made grey.
        """

        encoder: EncoderConfig
        train: TrainConfig
        grid: Literal[2, 3] = 3
        num_permutations: Annotated[int, Field(ge=2)] | None = None
        permutation_seed: NonNegativeInt = 0
        tile_fraction: Annotated[float, Field(gt=0, le=1)] = 64 / 75
        tile_size: PositiveInt | None = None
        hidden_dim: PositiveInt | None = None
        grey_prob: Probability = 0.3
        augment: ShiftFlipConfig = ShiftFlipConfig(padding=0, flip_prob=0.0)

        @model_validator(mode="after")
        def _enough_orders(self) -> "Jigsaw.Config":
            most = math.factorial(self.grid**2)
            if self.num_permutations is not None and self.num_permutations > most:
                raise ValueError(
                    f"num_permutations must be at most {most}, all orders of {self.grid**2} tiles; "
                    f"got {self.num_permutations}"
                )
            return self

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.size = (spec.height, spec.width)
        height, width = (tiles.tile_side(side, config.grid, config.tile_fraction) for side in self.size)
        self.tile = (height, width)
        self.input_size = (config.tile_size, config.tile_size) if config.tile_size else self.size
        self.encoder = models.build(config.encoder, spec)
        self._refuse_tiles()
        self.feature_dim = self.encoder.feature_dim
        num_tiles = config.grid**2
        count = config.num_permutations or min(PAPERS_PERMUTATIONS, math.factorial(num_tiles))
        orders = tiles.permutation_set(num_tiles, count, config.permutation_seed)
        self.register_buffer("permutations", torch.tensor(orders, dtype=torch.long))  # (N, n)
        width = num_tiles * self.feature_dim
        self.head = projection_head((width, config.hidden_dim or width, count))

    def augment(self, batch: Batch, generator: torch.Generator) -> Puzzles:
        images = batch.images
        if self.training:
            images = shift_flip(images, self.config.augment, generator)
            if self.config.grey_prob:
                drawn = torch.rand(distributed.total(len(images)), generator=generator, device=generator.device)
                images = greyscale(images, distributed.share(drawn) < self.config.grey_prob)
        places = tiles.sample_places(len(images), self.size, self.tile, self.config.grid, generator)
        order = self._draw(len(images), generator)
        shuffled = tiles.arranged(tiles.cut(images, *places, self.tile), self.permutations[order])
        return Puzzles(self._as_input(shuffled), order)

    def forward(self, batch: Puzzles, phase: str) -> Output:
        logits = self._logits(batch.tiles)  # (b, N)
        accuracy = (logits.argmax(1) == batch.order).float().mean()
        return Output(F.cross_entropy(logits, batch.order), {"accuracy": accuracy})

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of whole images in [0, 1]."""
        features: Tensor = self.encoder(images)
        return features

    @torch.no_grad()
    def illustrate(
        self, images: Float[Tensor, "b c h w"], generator: torch.Generator
    ) -> dict[str, Float[Tensor, "b c h w"]]:
        """Rows of pictures: the image, its tiles shuffled, and put back by the predicted permutation."""
        places = tiles.central_places(self.size, self.tile, self.config.grid, images.device)
        order = self.permutations[self._draw(len(images), generator)]  # (b, n)
        shuffled = tiles.arranged(tiles.cut(images, *places, self.tile), order)
        predicted = self.permutations[self._logits(self._as_input(shuffled)).argmax(1)]
        restored = tiles.arranged(shuffled, predicted.argsort(1))
        return {
            "image": images,
            "shuffled": tiles.put(shuffled, self.size),
            "put back": tiles.put(restored, self.size),
        }

    def _draw(self, count: int, generator: torch.Generator) -> Int[Tensor, " b"]:
        shape = (distributed.total(count),)
        drawn = torch.randint(len(self.permutations), shape, generator=generator, device=generator.device)
        return distributed.share(drawn)

    def _as_input(self, cut: Float[Tensor, "b n c t u"]) -> Float[Tensor, "b n c s s"]:
        """Normalised tiles, in the units and of the size that the encoder takes."""
        normalize = self.encoder.normalize
        resampled = tiles.resampled(tiles.normalised(cut), self.input_size)
        return resampled * normalize.std + normalize.mean

    def _logits(self, shuffled: Float[Tensor, "b n c s s"]) -> Float[Tensor, "b N"]:
        features: Tensor = self.encoder(shuffled.flatten(0, 1))  # (b n, d)
        logits: Tensor = self.head(torch.unflatten(features, 0, shuffled.shape[:2]).flatten(1))
        return logits.float()

    @torch.no_grad()
    def _refuse_tiles(self) -> None:
        """Try the encoder on a tile."""
        if self.input_size == self.size:
            return
        training = self.encoder.training
        try:
            self.encoder.eval()(torch.zeros(1, self.spec.channels, *self.input_size))
        except (RuntimeError, ValueError):
            raise ValueError(
                f"jigsaw.tile_size: the network {self.config.encoder.network!r} for images of "
                f"{self.size[0]}x{self.size[1]} does not take tiles of {self.input_size[0]}x{self.input_size[1]}; "
                "leave tile_size out"
            ) from None
        finally:
            self.encoder.train(training)
