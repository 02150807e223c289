"""Siamese networks: distances of pairs and triplets, learnt from labels (Hadsell et al. 2006; Schroff et al. 2015).

Notation: `n` embeddings of the global batch on the unit sphere, D their Euclidean distances, 0 to 2; a pair is similar
when its labels are equal. In a triplet a is the anchor, p its positive, n its negative.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from mlml import distributed, models
from mlml.config import Declared, EncoderConfig, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.method import Method, Output

MARGINS = {"contrastive": 1.0, "semi_hard": 0.2, "batch_hard": 0.2}


def squared_distances(z: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """D^2 of every pair of rows, which are normalised first; in float32."""
    with torch.autocast(z.device.type, enabled=False):  # a cosine of 8 bits would not tell near pairs apart
        z = F.normalize(z.float(), dim=1)
        return (2 - 2 * z @ z.T).clamp_min(0)


def contrastive(squared: Float[Tensor, "n n"], similar: Bool[Tensor, "n n"], margin: float) -> Float[Tensor, ""]:
    """Half of D^2 for similar pairs, half of max(0, margin - D)^2 for others: Hadsell et al. 2006, Eq. 4.

    Both kinds weigh the same, as when a pair is similar with probability 1/2 (Koch et al. 2015, "Siamese neural
    networks for one-shot image recognition"): of all pairs of a batch, few are. A kind without pairs adds 0.

    Args:
        squared: D^2.
        similar: whether the labels are equal; the diagonal is no pair.
        margin: the paper's m, a distance.
    """
    pairs = ~torch.eye(len(squared), dtype=torch.bool, device=squared.device)
    near = _mean(squared / 2, similar & pairs)
    far = _mean((margin - _root(squared)).clamp_min(0).square() / 2, ~similar)
    return (near + far) / 2


def semi_hard(squared: Float[Tensor, "n n"], similar: Bool[Tensor, "n n"], margin: float) -> Float[Tensor, ""]:
    """Mean of max(0, D_ap^2 - D_an^2 + margin): Schroff et al. 2015 (FaceNet), arXiv:1503.03832, section 3.

    Every similar pair is anchor and positive, in both orders. Its negative is the nearest of those that are farther
    from the anchor than the positive (their Eq. 4); a pair without one is left out.

    Args:
        squared: D^2.
        similar: whether the labels are equal.
        margin: the paper's alpha, of squared distances.
    """
    own = squared.detach()
    negatives, order = own.masked_fill(similar, float("inf")).sort(1)  # (n, n), from near to far
    place = torch.searchsorted(negatives, own, right=True).clamp_max(len(own) - 1)  # of the first that is farther
    found = negatives.gather(1, place)
    losses = (squared - squared.gather(1, order.gather(1, place)) + margin).clamp_min(0)  # (anchor, positive)
    itself = torch.eye(len(own), dtype=torch.bool, device=own.device)
    return _mean(losses, similar & ~itself & (found > own) & found.isfinite())


def batch_hard(squared: Float[Tensor, "n n"], similar: Bool[Tensor, "n n"], margin: float) -> Float[Tensor, ""]:
    """Mean over anchors of max(0, margin + D to the farthest positive - D to the nearest negative).

    Hermans et al. 2017, arXiv:1703.07737, Eq. 5. An anchor without a positive or without a negative is left out.

    Args:
        squared: D^2.
        similar: whether the labels are equal.
        margin: the paper's m, a distance.
    """
    positives = similar & ~torch.eye(len(squared), dtype=torch.bool, device=squared.device)
    farthest = _root(squared.masked_fill(~positives, -1).amax(1))  # (n,)
    nearest = _root(squared.masked_fill(similar, 5).amin(1))  # (n,), no D^2 is above 4
    return _mean((margin + farthest - nearest).clamp_min(0), positives.any(1) & (~similar).any(1))


LOSSES = {"contrastive": contrastive, "semi_hard": semi_hard, "batch_hard": batch_hard}


class Siamese(Method):
    """Images of one class are embedded near each other, others apart: supervised by pairs, and so it reads labels.

    It stands among the pretexts since it trains an encoder whose features are judged by probes; compare it with the
    supervised classifier, not with methods that see no labels. Features are the embedding, whose cosines are what was
    trained, for one-shot classification as in Koch et al. 2015. All pairs of a batch count, so a batch should hold
    several images of most of its classes.
    """

    measures = ()
    reads_labels = True

    class Config(Declared):
        """Numbers of the siamese network.

        Attributes:
            loss: "contrastive" of pairs, or of triplets with "semi_hard" or "batch_hard" mining.
            margin: null takes 1 for "contrastive" and the papers' 0.2 for the others.
        """

        encoder: EncoderConfig
        train: TrainConfig
        loss: Literal["contrastive", "semi_hard", "batch_hard"] = "contrastive"
        margin: PositiveFloat | None = None
        embedding_dim: PositiveInt = 128
        augment: ShiftFlipConfig = ShiftFlipConfig(flip_prob=0.0)

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not spec.classes:
            raise ValueError(f"siamese: learns from pairs of one class, but {spec.name!r} has no labels")
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = config.embedding_dim
        self.embedding = nn.Linear(self.encoder.feature_dim, config.embedding_dim)

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        if not self.training:
            return batch
        return batch._replace(images=shift_flip(batch.images, self.config.augment, generator))

    def forward(self, batch: Batch, phase: str) -> Output:
        z = distributed.gather(self.encode(batch.images))  # (n, embedding_dim), pairs from every rank
        labels: Int[Tensor, " n"] = distributed.gather(batch.labels)
        similar = labels[:, None] == labels[None, :]
        config = self.config
        margin = MARGINS[config.loss] if config.margin is None else config.margin
        return Output(LOSSES[config.loss](squared_distances(z), similar, margin))

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Embeddings of images in [0, 1], not normalised."""
        embedded: Tensor = self.embedding(self.encoder(images))
        return embedded


def _mean(values: Tensor, counted: Tensor) -> Float[Tensor, ""]:
    """Mean of the values that count; 0 where none does."""
    return torch.where(counted, values, 0.0).sum() / counted.sum().clamp_min(1)


def _root(squared: Tensor) -> Tensor:
    """Square root, whose gradient at 0, where it has none, is 0."""
    return squared.clamp_min(1e-12).sqrt()
