"""VICReg (Bardes et al. 2022, arXiv:2105.04906).

Notation: z0, z1 (n, d) are the paper's embeddings Z, Z'; gamma is the standard deviation that each output is to have.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from mlml import distributed, models
from mlml.config import AugmentConfig, Declared, EncoderConfig, TrainConfig
from mlml.data.augment import Views, simclr_views
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.layers.heads import projection_head
from mlml.method import Method, Output

VARIANCE_EPSILON = 1e-4
"""The paper's epsilon: what a variance is raised by before its root is taken."""


class Terms(NamedTuple):
    """The three terms of the loss, without their weights; variance and covariance of both views together."""

    invariance: Float[Tensor, ""]
    variance: Float[Tensor, ""]
    covariance: Float[Tensor, ""]


def vicreg(z0: Float[Tensor, "n d"], z1: Float[Tensor, "n d"], gamma: float = 1.0) -> Terms:
    """Terms of VICReg, in float32.

    Bardes et al. 2022: `variance` is v(Z) + v(Z') of Eq. 1, `covariance` is c(Z) + c(Z') of Eq. 4, and `invariance` is
    s(Z, Z') of Eq. 5 over d: the mean squared difference, as Algorithm 1 has it, with which the weights were found.
    Variances and covariances have n - 1 in the denominator.

    Args:
        z0: embeddings of the first views; row i comes from image i.
        z1: embeddings of the second views.
        gamma: the standard deviation below which an output is penalised.

    Raises:
        ValueError: n < 2, which has no variance.
    """
    n = len(z0)
    if n < 2:
        raise ValueError(f"vicreg: needs at least 2 images for a variance; got {n}; raise train.batch_size")
    with torch.autocast(z0.device.type, enabled=False):  # it would shorten the products of a float32 loss
        z0, z1 = views = z0.float(), z1.float()
        variance = sum((F.relu(gamma - _deviation(z)).mean() for z in views), start=views[0].new_zeros(()))
        covariance = sum((_covariance(z) for z in views), start=views[0].new_zeros(()))
        return Terms(F.mse_loss(z0, z1), variance, covariance)


def _deviation(z: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Eq. 2, the paper's S."""
    return (z.var(0) + VARIANCE_EPSILON).sqrt()


def _covariance(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Eq. 4, the paper's c: the sum of squared covariances of different outputs, over d."""
    z = z - z.mean(0)
    covariance = z.T @ z / (len(z) - 1)  # (d, d), Eq. 3
    same = torch.eye(len(covariance), dtype=torch.bool, device=z.device)
    return covariance.masked_fill(same, 0.0).square().sum() / z.shape[1]


class VICReg(Method):
    """Invariance to the view, under a bound on each output's variance from below and without covariance of outputs.

    The statistics are those of the batch of all ranks. The last layer of the expander has no bias, which no term would
    see. The authors' code halves the variance term: their runs are those of `variance_weight: 12.5` here.
    """

    measures = ("invariance", "variance", "covariance")

    class Config(Declared):
        """Numbers of VICReg; the defaults are the paper's (section 4.2 and appendix C).

        Attributes:
            invariance_weight: lambda.
            variance_weight: mu.
            covariance_weight: nu.
            gamma: standard deviation that each output is to have.
            expander_dim: width of the three layers of the expander; null is four times that of the features, as the
                paper's 8192 are of the 2048 of its ResNet-50.
        """

        encoder: EncoderConfig
        train: TrainConfig
        invariance_weight: NonNegativeFloat = 25.0
        variance_weight: NonNegativeFloat = 25.0
        covariance_weight: NonNegativeFloat = 1.0
        gamma: PositiveFloat = 1.0
        expander_dim: PositiveInt | None = None
        augment: AugmentConfig = AugmentConfig(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, solarise_prob=0.1)

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim
        width = config.expander_dim or 4 * self.feature_dim
        self.expander = projection_head((self.feature_dim, width, width, width), last_bias=False)

    def augment(self, batch: Batch, generator: torch.Generator) -> Views:
        return Views(*simclr_views(batch.images, self.config.augment, generator))

    def forward(self, batch: Views, phase: str) -> Output:
        # one pass for each view, so that batch norm does not mix them, as in the authors' code
        z0, z1 = (distributed.gather(self.expander(self.encoder(images))) for images in batch)  # (n, width)
        config, terms = self.config, vicreg(z0, z1, self.config.gamma)
        loss = (
            config.invariance_weight * terms.invariance
            + config.variance_weight * terms.variance
            + config.covariance_weight * terms.covariance
        )
        return Output(loss, terms._asdict())

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]: the encoder's, before the expander."""
        features: Tensor = self.encoder(images)
        return features
