"""BYOL: bootstrap your own latent (Grill et al. 2020, arXiv:2006.07733)."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from mlml import models
from mlml.config import AugmentConfig, Declared, EncoderConfig, Probability, TrainConfig
from mlml.data.augment import Views, simclr_view
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.layers.heads import projection_head
from mlml.method import Method, Output
from mlml.teacher import cosine_momentum, teacher_of, teacher_update


def regression_loss(prediction: Float[Tensor, "n d"], target: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean squared error between the normalised predictions and the normalised targets of n images.

    Grill et al. 2020, Eq. 2: 2 - 2 <q, z'> / (|q| |z'|) of each image. No gradient goes into the target.

    Args:
        prediction: q of the online network; row k comes from one view of image k.
        target: z' of the target network; row k comes from the other view.

    Returns:
        Mean over images, in [0, 4].
    """
    return 2 - 2 * F.cosine_similarity(prediction.float(), target.detach().float(), dim=1).mean()


class BYOL(Method):
    """The online network predicts from one view what the target network makes of the other view.

    f, g and q of the paper are `encoder`, `projector` and `predictor`; xi are the weights of `target`, a moving average
    of the online encoder and projector with momentum `momentum` at first and 1 at the end (Eq. 1 and section 3.3).
    There are no negatives. Each view goes through the networks by itself, so batch norms have the statistics of a
    view, in the target as well.
    """

    measures = ()
    loss_falls = False  # a distance on the sphere to a target that moves

    class Config(Declared):
        """Numbers of BYOL; the defaults are the paper's (section 3.3 and appendix B).

        Attributes:
            hidden_dim: of projector and predictor; null: twice the features, the paper's 4096 with its ResNet-50.
            momentum: tau_base, at the beginning of the run.
            first: augmentation of one view.
            second: of the other.
        """

        encoder: EncoderConfig
        train: TrainConfig
        projection_dim: PositiveInt = 256
        hidden_dim: PositiveInt | None = None
        momentum: Probability = 0.996
        first: AugmentConfig = AugmentConfig(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur_prob=1.0)
        second: AugmentConfig = AugmentConfig(
            brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur_prob=0.1, solarise_prob=0.2
        )

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = width = self.encoder.feature_dim
        hidden, out = config.hidden_dim or 2 * width, config.projection_dim
        self.projector = projection_head((width, hidden, out))
        self.predictor = projection_head((out, hidden, out))
        self.target = teacher_of(self._online())

    def _online(self) -> nn.Sequential:
        """What the target is an average of."""
        return nn.Sequential(self.encoder, self.projector)

    def augment(self, batch: Batch, generator: torch.Generator) -> Views:
        return Views(*(simclr_view(batch.images, view, generator) for view in (self.config.first, self.config.second)))

    def phase_parameters(self, phase: str) -> Iterable[nn.Parameter]:
        for module in (self.encoder, self.projector, self.predictor):
            yield from module.parameters()

    def forward(self, batch: Views, phase: str) -> Output:
        q0, q1 = (self.predictor(self.projector(self.encoder(view))) for view in batch)  # (b, projection_dim)
        with torch.no_grad():
            z0, z1 = (self.target(view) for view in batch)
        return Output(regression_loss(q0, z1) + regression_loss(q1, z0))

    def after_step(self, progress: float) -> None:
        teacher_update(self.target, self._online(), cosine_momentum(self.config.momentum, progress))

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]: the online encoder's."""
        features: Tensor = self.encoder(images)
        return features
