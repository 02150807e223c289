"""SimCLR (Chen et al. 2020, arXiv:2002.05709)."""

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


def nt_xent(z0: Float[Tensor, "n d"], z1: Float[Tensor, "n d"], temperature: float) -> Float[Tensor, ""]:
    """Normalised temperature-scaled cross entropy over the 2n views of n images.

    Chen et al. 2020, Eq. 1. Their pair (i, j) is our rows (k, n + k).

    Args:
        z0: projections of the first views; row k comes from image k. Need not be normalised.
        z1: projections of the second views.
        temperature: divides the cosine similarity; > 0, dimensionless.

    Returns:
        Mean loss over the 2n anchors, in nats.

    Raises:
        ValueError: n < 2 (no negatives) or temperature <= 0.
    """
    n = len(z0)
    if n < 2:
        raise ValueError(f"nt_xent: needs at least 2 images for negatives; got {n}; raise train.batch_size")
    if temperature <= 0:
        raise ValueError(f"nt_xent: temperature must be > 0; got {temperature}")
    with torch.autocast(z0.device.type, enabled=False):  # it would shorten the products
        z = F.normalize(torch.cat([z0, z1]).float(), dim=1)  # (2n, d)
        logits = z @ z.T / temperature  # (2n, 2n)
    logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), float("-inf"))
    positive = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(logits, positive)


class SimCLR(Method):
    """Two augmented views of an image are pulled together, views of other images pushed away.

    Encoder f, projector g and temperature tau of the paper are `encoder`, `projector` and `temperature`. The
    projector has one hidden layer as wide as the features, with batch norm as in the authors' code (`projection_norm`).
    """

    measures = ()

    class Config(Declared):
        """Numbers of SimCLR; the defaults are the paper's (section 2.1 and appendix B.9)."""

        encoder: EncoderConfig
        train: TrainConfig
        temperature: PositiveFloat = 0.5
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
        return Output(nt_xent(z0, z1, self.config.temperature))

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]: the encoder's, before the projector."""
        features: Tensor = self.encoder(images)
        return features
