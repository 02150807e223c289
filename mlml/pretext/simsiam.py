"""SimSiam (Chen & He 2021, arXiv:2011.10566)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from mlml import models
from mlml.config import AugmentConfig, Declared, EncoderConfig, TrainConfig
from mlml.data.augment import Views, simclr_views
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.layers.heads import projection_head
from mlml.method import Method, Output


def negative_cosine(p: Float[Tensor, "n d"], z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean negative cosine between predictions and projections of n images, without a gradient into the projections.

    Chen & He 2021, D of Eq. 1 with the stop-gradient of Eq. 3. Without it all images would come to one point.

    Args:
        p: predictions from one view; row k comes from image k.
        z: projections of the other view.

    Returns:
        In [-1, 1].
    """
    return -F.cosine_similarity(p.float(), z.detach().float(), dim=1).mean()


class SimSiam(Method):
    """Each of two views of an image predicts the projection of the other, which is held constant.

    Encoder f of the paper is our `encoder` and `projector` together, h is our `predictor`. There are neither negatives
    nor a momentum encoder. The projector has three layers, each with batch norm, the last one's without affine part as
    in the authors' code; the predictor has two, of which the hidden one is narrow (section 3 and 4.4). Each view goes
    through the networks by itself, so batch norms have the statistics of a view.
    """

    measures = ()
    loss_falls = False  # a cosine to the projection, which moves

    class Config(Declared):
        """Numbers of SimSiam; the defaults are the paper's (section 3), its widths in proportion to the features.

        Attributes:
            projection_dim: of the projector's layers; null: as wide as the features, the paper's 2048 with a ResNet-50.
            hidden_dim: of the predictor; null: a fourth of `projection_dim`, the paper's 512.
        """

        encoder: EncoderConfig
        train: TrainConfig
        projection_dim: PositiveInt | None = None
        hidden_dim: PositiveInt | None = None
        augment: AugmentConfig = AugmentConfig(
            crop_scale=(0.2, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
        )

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim
        out = config.projection_dim or self.feature_dim
        hidden = config.hidden_dim or max(1, out // 4)
        self.projector = projection_head((self.feature_dim, out, out, out), last_norm=True)
        self.predictor = projection_head((out, hidden, out))

    def augment(self, batch: Batch, generator: torch.Generator) -> Views:
        return Views(*simclr_views(batch.images, self.config.augment, generator))

    def forward(self, batch: Views, phase: str) -> Output:
        z0, z1 = (self.projector(self.encoder(view)) for view in batch)  # (b, projection_dim)
        p0, p1 = self.predictor(z0), self.predictor(z1)
        return Output(negative_cosine(p0, z1) / 2 + negative_cosine(p1, z0) / 2)  # Eq. 4

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]: the encoder's, before the projector."""
        features: Tensor = self.encoder(images)
        return features
