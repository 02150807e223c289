"""Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230).

Notation: z0, z1 (n, d) are the paper's Z^A, Z^B; c (d, d) is their cross-correlation over the batch.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from mlml import distributed, models
from mlml.config import AugmentConfig, Declared, EncoderConfig, TrainConfig
from mlml.data.augment import Views, simclr_view
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.layers.heads import projection_head
from mlml.method import Method, Output

VARIANCE_EPSILON = 1e-5
"""What a variance is raised by, as in the batch norm of the authors' code: a constant output correlates with none."""


class Terms(NamedTuple):
    """The two sums of the loss; the second without its weight."""

    invariance: Float[Tensor, ""]
    redundancy: Float[Tensor, ""]


def cross_correlation(z0: Float[Tensor, "n d"], z1: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """Correlation over the batch of each output of the first view with each output of the second.

    Zbontar et al. 2021, Eq. 2, in float32; 1e-5 is added to the variances.

    Args:
        z0: outputs for the first views; row i comes from image i.
        z1: outputs for the second views.

    Raises:
        ValueError: n < 2, which has no variance.
    """
    n = len(z0)
    if n < 2:
        raise ValueError(f"barlow_twins: needs at least 2 images for a correlation; got {n}; raise train.batch_size")
    with torch.autocast(z0.device.type, enabled=False):  # it would shorten the products of a float32 loss
        z0, z1 = (_standardised(z.float()) for z in (z0, z1))
        return z0.T @ z1 / n


def barlow_twins(z0: Float[Tensor, "n d"], z1: Float[Tensor, "n d"]) -> Terms:
    """How far the cross-correlation of two views is from the identity.

    Zbontar et al. 2021, Eq. 1: L_BT = sum_i (1 - c_ii)^2 + lambda sum_i sum_{j != i} c_ij^2 = `invariance` + lambda
    `redundancy`. Arguments and errors as of `cross_correlation`.
    """
    c = cross_correlation(z0, z1)
    same = torch.eye(len(c), dtype=torch.bool, device=c.device)
    return Terms((1 - c.diagonal()).square().sum(), c.masked_fill(same, 0.0).square().sum())


def _standardised(z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    variance, mean = torch.var_mean(z, 0, correction=0)
    return (z - mean) * (variance + VARIANCE_EPSILON).rsqrt()


class BarlowTwins(Method):
    """Two views of an image are to have equal outputs, and no two outputs the same information.

    The correlations are those over the batch of all ranks. The last layer of the projector has no bias, which a
    correlation would not see.
    """

    measures = ("invariance", "redundancy")

    class Config(Declared):
        """Numbers of Barlow Twins; the defaults are the paper's (section 2.2), the augmentations BYOL's as there.

        Attributes:
            redundancy_weight: lambda.
            loss_scale: what the sum over outputs is multiplied by, as in the authors' code: its gradients would be too
                large for float16; 1 is Eq. 1.
            projection_dim: width of the three layers of the projector; null is four times that of the features, as the
                paper's 8192 are of the 2048 of its ResNet-50.
            augment: of the first view.
            augment_second: of the second view.
        """

        encoder: EncoderConfig
        train: TrainConfig
        redundancy_weight: PositiveFloat = 0.005
        loss_scale: PositiveFloat = 0.024
        projection_dim: PositiveInt | None = None
        augment: AugmentConfig = AugmentConfig(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur_prob=1.0)
        augment_second: AugmentConfig = AugmentConfig(
            brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur_prob=0.1, solarise_prob=0.2
        )

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim
        width = config.projection_dim or 4 * self.feature_dim
        self.projector = projection_head((self.feature_dim, width, width, width), last_bias=False)

    def augment(self, batch: Batch, generator: torch.Generator) -> Views:
        first = simclr_view(batch.images, self.config.augment, generator)
        return Views(first, simclr_view(batch.images, self.config.augment_second, generator))

    def forward(self, batch: Views, phase: str) -> Output:
        # one pass for each view, so that batch norm does not mix them, as in the authors' code
        z0, z1 = (distributed.gather(self.projector(self.encoder(images))) for images in batch)  # (n, width)
        terms = barlow_twins(z0, z1)
        loss = terms.invariance + self.config.redundancy_weight * terms.redundancy
        return Output(self.config.loss_scale * loss, terms._asdict())

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]: the encoder's, before the projector."""
        features: Tensor = self.encoder(images)
        return features
