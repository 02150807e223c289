"""Sparse autoencoder (Ng 2011, CS294A lecture notes "Sparse autoencoder").

Notation: z (n, k) are codes of n images, k = `latent_dim`; rho_j is the mean of z_j over the images of a batch.
"""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from mlml import distributed
from mlml.config import Declared, EncoderConfig, Fraction, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.method import Output
from mlml.pretext._autoencoding import Autoencoding, reconstruction_error


class KLPenalty(Declared):
    """Units are sigmoids, and each is to be active in a share of the images (Ng 2011, section 3)."""

    name: Literal["kl"] = "kl"
    target: Fraction = 0.05
    weight: NonNegativeFloat = 3.0


class L1Penalty(Declared):
    """Units are rectified and pay by their size; the decoder's columns have norm 1, or units would shrink for free."""

    name: Literal["l1"] = "l1"
    weight: NonNegativeFloat = 0.1


def kl_sparsity(logits: Float[Tensor, "n k"], target: float) -> Float[Tensor, ""]:
    """Sum over units of KL(Bernoulli(target) || Bernoulli(rho_j)), in nats, where z = sigmoid(logits).

    Ng 2011, section 3; their rho is `target`, their rho-hat_j our rho_j. Computed from logarithms, so that it is finite
    where a sigmoid rounds to 0 or 1.

    Args:
        logits: of the units, for the n images of the whole batch.
        target: in (0, 1).

    Raises:
        ValueError: the target is out of range.
    """
    if not 0 < target < 1:
        raise ValueError(f"kl_sparsity: the target must be in (0, 1); got {target}")
    logits = logits.float()
    log_on: Tensor = F.logsigmoid(logits).logsumexp(0) - math.log(len(logits))  # (k,), log rho_j
    log_off: Tensor = F.logsigmoid(-logits).logsumexp(0) - math.log(len(logits))  # (k,), log(1 - rho_j)
    return (target * (math.log(target) - log_on) + (1 - target) * (math.log1p(-target) - log_off)).sum()


class Dictionary(nn.Module):
    """A linear decoder: logits are the sum of the columns of a matrix, one for each unit, times the code, plus a bias.

    Args:
        latent_dim: units of the code.
        shape: (c, h, w) of the images.
        unit_norm: whether each column is divided by its norm.
    """

    def __init__(self, latent_dim: int, shape: tuple[int, int, int], unit_norm: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(latent_dim, math.prod(shape))
        self.shape, self.unit_norm = shape, unit_norm

    def columns(self) -> Float[Tensor, "p k"]:
        """What each unit adds to the logits of the p = c h w components."""
        weight: Tensor = self.linear.weight
        return F.normalize(weight, dim=0) if self.unit_norm else weight

    def forward(self, codes: Float[Tensor, "b k"]) -> Float[Tensor, "b c h w"]:
        """Logits of the pixels; their sigmoid is an image in [0, 1]."""
        return torch.unflatten(F.linear(codes, self.columns(), self.linear.bias), 1, self.shape)


class Sparse(Autoencoding):
    """An autoencoder of many units, few of which are active at once.

    Loss: error of the reconstruction, mean over images, plus the penalty times its weight. The mean activation is that
    of the whole batch, over every rank, where the notes take the whole train split. The decoder is linear as theirs; a
    deep one could undo the penalty. Their weight decay is `train.l2`.
    """

    measures = ("reconstruction", "sparsity")

    class Config(Declared):
        """Numbers of the sparse autoencoder; target and weight of `kl` are the notes', that of `l1` is no paper's.

        Attributes:
            error: half the squared error of the pixels, as in the notes, or their cross entropy.
        """

        encoder: EncoderConfig
        train: TrainConfig
        latent_dim: PositiveInt = 200
        penalty: Annotated[KLPenalty | L1Penalty, Field(discriminator="name")] = KLPenalty()
        error: Literal["cross_entropy", "squared"] = "squared"
        augment: ShiftFlipConfig = ShiftFlipConfig(padding=0, flip_prob=0.0)

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        shape = (spec.channels, spec.height, spec.width)
        self.decoder = Dictionary(config.latent_dim, shape, unit_norm=config.penalty.name == "l1")

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        images = shift_flip(batch.images, self.config.augment, generator) if self.training else batch.images
        return Batch(images, batch.labels)

    def forward(self, batch: Batch, phase: str) -> Output:
        units = self.to_code(self.encoder(batch.images))  # (b, k), before their nonlinearity
        codes = self.activate(units)
        error = reconstruction_error(self.decoder(codes), batch.images, self.config.error).mean()
        penalty = self.config.penalty
        if penalty.name == "kl":
            sparsity = kl_sparsity(distributed.gather(units.float()), penalty.target)
        else:
            sparsity = codes.float().abs().sum(1).mean()
        return Output(error + penalty.weight * sparsity, {"reconstruction": error, "sparsity": sparsity})

    def activate(self, units: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """The code: sigmoids in (0, 1) for `kl`, rectified units for `l1`."""
        return units.sigmoid() if self.config.penalty.name == "kl" else units.relu()

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Codes of images in [0, 1]."""
        return self.activate(super().encode(images))
