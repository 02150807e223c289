"""DCL and DCLW, decoupled contrastive learning (Yeh et al. 2022, arXiv:2110.06848).

Notation: z0, z1 (n, d) are the projections z^(1), z^(2) of the two views; <a, b> is their cosine similarity.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from mlml import distributed, models
from mlml.config import AugmentConfig, Declared, EncoderConfig, TrainConfig
from mlml.data.augment import Views, simclr_views
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.layers.heads import projection_head
from mlml.method import Method, Output


def dcl(
    z0: Float[Tensor, "n d"], z1: Float[Tensor, "n d"], temperature: float, sigma: float | None = None
) -> Float[Tensor, ""]:
    """Decoupled contrastive loss over the 2n views of n images.

    Yeh et al. 2022: the loss of SimCLR without the positive pair in the denominator. For the view k of image i

        L_DCW = -w_i <z0_i, z1_i> / temperature + log sum_{l in {1, 2}, j != i} exp(<z_i^(k), z_j^(l)> / temperature)

    with w_i = 1 in DCL, and in DCLW the negative von Mises-Fisher weight

        w_i = 2 - exp(<z0_i, z1_i> / sigma) / mean_j exp(<z0_j, z1_j> / sigma),

    which is larger for pairs that are far apart. Gradients flow through it too, as the equation has it.

    Args:
        z0: projections of the first views; row i comes from image i. Need not be normalised.
        z1: projections of the second views.
        temperature: divides the cosine similarity; > 0, dimensionless.
        sigma: of the weight, > 0, dimensionless; None for DCL.

    Returns:
        Mean loss over the 2n views, in nats; it may be negative.

    Raises:
        ValueError: n < 2 (no negatives), temperature <= 0 or sigma <= 0.
    """
    n = len(z0)
    if n < 2:
        raise ValueError(f"dcl: needs at least 2 images for negatives; got {n}; raise train.batch_size")
    if temperature <= 0:
        raise ValueError(f"dcl: temperature must be > 0; got {temperature}")
    if sigma is not None and sigma <= 0:
        raise ValueError(f"dcl: sigma must be > 0, or null for DCL; got {sigma}")
    with torch.autocast(z0.device.type, enabled=False):  # it would shorten the products of a float32 loss
        z0, z1 = F.normalize(z0.float(), dim=1), F.normalize(z1.float(), dim=1)
        z = torch.cat([z0, z1])  # (2n, d)
        own = torch.eye(n, dtype=torch.bool, device=z.device).repeat(2, 2)  # (2n, 2n): both views of the same image
        negative = (z @ z.T / temperature).masked_fill(own, float("-inf")).logsumexp(1)  # (2n,)
        positive = (z0 * z1).sum(1)  # (n,)
        weight = 1.0 if sigma is None else 2 - n * (positive / sigma).softmax(0)  # (n,)
        return negative.mean() - (weight * positive).mean() / temperature


class DCL(Method):
    """SimCLR's networks and views under the decoupled loss, which learns from small batches too.

    Encoder, projector and augmentation are SimCLR's, as in the paper's comparison with it.
    """

    measures = ()

    class Config(Declared):
        """Numbers of DCL.

        Attributes:
            sigma: of the weight of positive pairs; null is DCL, 0.5 the paper's DCLW.
            projection_norm: whether batch norm follows the hidden layer of the projector.
        """

        encoder: EncoderConfig
        train: TrainConfig
        temperature: PositiveFloat = 0.1
        sigma: PositiveFloat | None = None
        projection_dim: PositiveInt = 128
        projection_norm: bool = True
        augment: AugmentConfig = AugmentConfig()

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = width = self.encoder.feature_dim
        self.projector = projection_head((width, width, config.projection_dim), config.projection_norm)

    def augment(self, batch: Batch, generator: torch.Generator) -> Views:
        return Views(*simclr_views(batch.images, self.config.augment, generator))

    def forward(self, batch: Views, phase: str) -> Output:
        z = self.projector(self.encoder(torch.cat(batch)))  # (2b, projection_dim)
        z0, z1 = (distributed.gather(part) for part in z.chunk(2))  # negatives from every rank
        return Output(dcl(z0, z1, self.config.temperature, self.config.sigma))

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]: the encoder's, before the projector."""
        features: Tensor = self.encoder(images)
        return features
