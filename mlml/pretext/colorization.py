"""Colourisation (Zhang et al. 2016, arXiv:1603.08511).

Notation: Q bins of the plane of a and b are the centres of `lab.gamut`; Z is the soft encoding of a pixel's colour over
them, and p the share of each bin among the pixels of the train images.
"""

from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from mlml import distributed, models
from mlml.config import Declared, EncoderConfig, Probability, ShiftFlipConfig, TrainConfig
from mlml.data import lab
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.method import Method, Output
from mlml.pretext._pixels import PixelHead

NEIGHBOURS = 5
AB_UNIT = 110.0
"""a and b of a regression are in units of this, so that they lie about [-1, 1]."""
STRIDES = (4, 2, 1)
MIN_SIDE = 8


class Coloured(NamedTuple):
    """What an encoder sees of each image, and the colours that it is to tell."""

    grey: Float[Tensor, "b 3 h w"]
    ab: Float[Tensor, "b 2 h/stride w/stride"]


def soft_encoding(
    ab: Float[Tensor, "n 2"], centres: Float[Tensor, "q 2"], sigma: float
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """The 5 bins that are the nearest to each colour, nearest first, and their weights in Z, which sum to 1.

    Zhang et al. 2016, section 2.1: weights are proportional to a Gaussian of the distance, of deviation `sigma`.
    """
    distance = (ab[:, :1] - centres[:, 0]).square() + (ab[:, 1:] - centres[:, 1]).square()  # (n, q)
    nearest, bins = distance.topk(min(NEIGHBOURS, len(centres)), largest=False)
    return bins, (nearest / (-2 * sigma**2)).softmax(1)


def smoothed(prior: Float[Tensor, " q"], centres: Float[Tensor, "q 2"], sigma: float) -> Float[Tensor, " q"]:
    """The distribution of colours after each bin's share is spread over all bins by a Gaussian (section 2.2)."""
    distance = (centres[:, None] - centres).square().sum(2)  # (q, q)
    spread = (distance / (-2 * sigma**2)).softmax(0)  # column r: where the share of bin r goes
    return (spread * prior).sum(1)


def rebalancing(smooth: Float[Tensor, " q"], uniform_weight: float) -> Float[Tensor, " q"]:
    """Weights w of the bins, whose mean over the distribution is 1: Zhang et al. 2016, Eq. 4.

    Args:
        smooth: the smoothed distribution of colours.
        uniform_weight: lambda.
    """
    weights = 1 / ((1 - uniform_weight) * smooth + uniform_weight / len(smooth))
    return weights / (smooth * weights).sum()


def annealed_mean(
    logits: Float[Tensor, "b q h w"], centres: Float[Tensor, "q 2"], temperature: float
) -> Float[Tensor, "b 2 h w"]:
    """Mean colour after the distribution is sharpened: Zhang et al. 2016, Eq. 5."""
    probabilities = (logits / temperature).softmax(1)
    return torch.stack([(probabilities * axis[:, None, None]).sum(1) for axis in centres.unbind(1)], 1)


class Colorization(Method):
    """An encoder learns to tell the colours of an image from its lightness.

    It sees the grey image of the same L, in as many channels as the image, and so it does in `encode`: a probe finds
    features without colour. `classification` is the cross entropy over bins of a and b, each pixel weighted by the
    rarity of its bin (Eq. 2 to 4), `regression` half the squared error in a and b (Eq. 1), in units of 110; both are
    means over pixels where the paper sums. `ab_error` is the distance between predicted and true colour in the plane
    of a and b, mean over pixels; of a distribution the prediction is its annealed mean (Eq. 5).

    A method is not shown the train images before it learns from them, so the distribution of colours is the mean over
    the batches so far, the same on all ranks, and complete after the first epoch.

    Raises:
        ValueError: the images are grey, or `stride` does not divide their sides.
    """

    channels = 3
    measures = ("ab_error",)
    centres: Tensor
    prior: Tensor
    batches_seen: Tensor

    class Config(Declared):
        """Numbers of colourisation; the defaults are the paper's.

        Attributes:
            grid: spacing of the bins, in units of a and b.
            sigma: of the soft encoding and of the smoothed distribution of colours, in units of a and b.
            uniform_weight: lambda of Eq. 4; 1 for no rebalancing.
            temperature: of the annealed mean.
            stride: one prediction stands for so many by so many pixels, whose mean colour it is; null: the paper's 4,
                or the largest of 2 and 1 that divides the sides and leaves 8 predictions along each.
        """

        encoder: EncoderConfig
        train: TrainConfig
        objective: Literal["classification", "regression"] = "classification"
        grid: Annotated[float, Field(ge=5, le=50)] = 10.0
        sigma: PositiveFloat = 5.0
        uniform_weight: Probability = 0.5
        temperature: PositiveFloat = 0.38
        stride: PositiveInt | None = None
        decoder_width: PositiveInt = 32
        augment: ShiftFlipConfig = ShiftFlipConfig(padding=0)

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if spec.channels != self.channels:
            raise ValueError(
                f"colorization: images of {spec.name!r} must have 3 channels, red, green and blue; "
                f"got {spec.channels}; give data in colour"
            )
        self.size = (spec.height, spec.width)
        self.stride = _stride(config.stride, self.size)
        self.register_buffer("centres", torch.tensor(lab.gamut(config.grid)))  # (q, 2)
        count = len(self.centres)
        self.register_buffer("prior", torch.full((count,), 1 / count))
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.long))
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim
        outputs = count if config.objective == "classification" else 2
        self.head = PixelHead(self.encoder, outputs, self.size, config.decoder_width, self.stride)

    def augment(self, batch: Batch, generator: torch.Generator) -> Coloured:
        images = shift_flip(batch.images, self.config.augment, generator) if self.training else batch.images
        return Coloured(lab.neutral(images), F.avg_pool2d(lab.rgb_to_lab(images)[:, 1:], self.stride))

    def forward(self, batch: Coloured, phase: str) -> Output:
        predicted = self.head(self.encoder, batch.grey).float()
        loss = self._classified(predicted, batch.ab) if self._classifies else self._regressed(predicted, batch.ab)
        with torch.no_grad():
            error = (self._colours(predicted) - batch.ab).square().sum(1).sqrt().mean()
        return Output(loss, {"ab_error": error})

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of the lightness of images in [0, 1]."""
        features: Tensor = self.encoder(lab.neutral(images))
        return features

    @torch.no_grad()
    def illustrate(
        self, images: Float[Tensor, "b 3 h w"], generator: torch.Generator
    ) -> dict[str, Float[Tensor, "b 3 h w"]]:
        """Rows of pictures: what the encoder sees, the same with predicted colours, and the truth."""
        grey = lab.neutral(images)
        ab = self._colours(self.head(self.encoder, grey).float())
        ab = F.interpolate(ab, self.size, mode="bilinear")
        coloured = lab.lab_to_rgb(torch.cat([lab.rgb_to_lab(images)[:, :1], ab], 1))
        return {"grey": grey, "coloured": coloured, "image": images}

    @property
    def _classifies(self) -> bool:
        return self.config.objective == "classification"

    def _colours(self, predicted: Float[Tensor, "b q h w"]) -> Float[Tensor, "b 2 h w"]:
        """Colours, a and b, that the network's numbers stand for."""
        if self._classifies:
            return annealed_mean(predicted, self.centres, self.config.temperature)
        return AB_UNIT * predicted

    def _regressed(self, predicted: Float[Tensor, "b 2 h w"], ab: Float[Tensor, "b 2 h w"]) -> Float[Tensor, ""]:
        return 0.5 * (predicted - ab / AB_UNIT).square().sum(1).mean()

    def _classified(self, logits: Float[Tensor, "b q h w"], ab: Float[Tensor, "b 2 h w"]) -> Float[Tensor, ""]:
        config = self.config
        bins, weights = soft_encoding(ab.movedim(1, -1).flatten(0, 2), self.centres, config.sigma)  # (n, k)
        if self.training:
            self._remember(bins[:, 0])
        balance = rebalancing(smoothed(self.prior, self.centres, config.sigma), config.uniform_weight)
        log_probabilities = logits.movedim(1, -1).flatten(0, 2).log_softmax(1)  # (n, q)
        entropy = -(weights * log_probabilities.gather(1, bins)).sum(1)  # (n,)
        return (balance[bins[:, 0]] * entropy).mean()

    @torch.no_grad()
    def _remember(self, bins: Int[Tensor, " n"]) -> None:
        """Move the distribution of colours to the mean over the batches so far, this one included."""
        counts = torch.zeros_like(self.prior, dtype=torch.long).scatter_add_(0, bins, torch.ones_like(bins))
        shares = distributed.mean(counts / len(bins))
        self.batches_seen.add_(1)
        self.prior.add_((shares - self.prior) / self.batches_seen)


def _stride(declared: int | None, size: tuple[int, int]) -> int:
    if declared is None:
        return next(s for s in STRIDES if s == 1 or all(side % s == 0 and side // s >= MIN_SIDE for side in size))
    if any(side % declared for side in size):
        raise ValueError(
            f"colorization.stride: must divide the sides of the images, {size[0]}x{size[1]}; got {declared}"
        )
    return declared
