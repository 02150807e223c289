"""What adversarial methods have in common: losses of both players, penalties of gradients, measures of the game.

Notation: G is the generator, D the discriminator before its sigmoid (a critic has none); x are real images in [-1, 1],
z latent vectors. `real` = D(x) and `fake` = D(G(z)) are logits, (b,).
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlml import distributed
from mlml.config import NormalInitialiser
from mlml.initialisers import initialise

Loss = Literal["minimax", "non_saturating", "hinge"]
Judge = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, " b"]]
"""Logits of images in [-1, 1]."""


def discriminator_loss(loss: Loss, real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """What D minimises.

    Goodfellow et al. 2014, arXiv:1406.2661, Eq. 1 times -1: -log D(x) - log(1 - D(G(z))), their D being the sigmoid of
    ours; with "hinge" Miyato et al. 2018, arXiv:1802.05957, Eq. 16 (Lim & Ye 2017, arXiv:1705.02894) times -1.
    """
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(loss: Loss, fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """What G minimises: log(1 - D(G(z))), of Eq. 1; -log D(G(z)), of section 3; or -D(G(z)), of Miyato's Eq. 17."""
    if loss == "minimax":
        return -F.softplus(fake).mean()
    return F.softplus(-fake).mean() if loss == "non_saturating" else -fake.mean()


@torch.compiler.disable  # a compiled graph has no second derivative
def with_gradient(
    judge: Judge, images: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b c h w"]]:
    """Logits of images, and their gradient by the images, of which gradients can be taken again.

    In the precision of the images whatever the loop computes in: a gradient of a gradient has no digits to spare.
    """
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        images = images.detach().requires_grad_()
        logits = judge(images)
        # the sum's gradient has that of each image in its row, as no norm of ours mixes images
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return logits, gradient


def judged_with_r1(
    judge: Judge, images: Float[Tensor, "b c h w"], gamma: float
) -> tuple[Float[Tensor, " b"], Float[Tensor, ""]]:
    """Logits of real images, and R1 of them (Mescheder et al. 2018, arXiv:1801.04406, Eq. 9); 0 where gamma is.

    R1 is gamma / 2 times the mean squared norm of the gradient of D by its image.
    """
    if gamma == 0:
        return judge(images), images.new_zeros(())
    logits, gradient = with_gradient(judge, images)
    return logits, gamma / 2 * gradient.square().flatten(1).sum(1).mean()


def gradient_penalty(gradient: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Mean squared distance of the gradient's norm from 1 (Gulrajani et al. 2017, arXiv:1704.00028, Eq. 3).

    Without their factor lambda.
    """
    penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty


def standing(real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> dict[str, Tensor]:
    """How the game stands: the share of images that D judges rightly, and the mean distance of logits."""
    right = ((real > 0).float().mean() + (fake <= 0).float().mean()) / 2
    return {"accuracy": right, "margin": real.mean() - fake.mean()}


@torch.no_grad()
def diversity(fake: Float[Tensor, "b c h w"], real: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """How far generated images lie from the nearest other of their batch, over the same of real images.

    About 1 where they are as different as real ones, 0 where all are alike or few images come again and again, which
    the mean distance of all pairs would hardly see. Over the batch of all processes; 1 of a single image.
    """
    distances = [_to_nearest(distributed.gather(images.detach().float().flatten(1))) for images in (fake, real)]
    return torch.where(distances[1] > 0, distances[0] / distances[1], torch.ones_like(distances[1]))


def _to_nearest(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean distance of a row to the nearest other; 0 of a single one."""
    if len(rows) < 2:
        return rows.new_zeros(())
    pairs = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")  # (n, n)
    return pairs.fill_diagonal_(torch.inf).amin(1).mean()


def draw_latents(
    prior: Literal["uniform", "normal"], num_latents: int, latent_dim: int, generator: torch.Generator
) -> Float[Tensor, "n d"]:
    """Vectors z: uniform in [-1, 1], as of Radford et al. 2016, section 4, or standard normal."""
    shape, device = (num_latents, latent_dim), generator.device
    if prior == "uniform":
        return 2 * torch.rand(shape, generator=generator, device=device) - 1
    return torch.randn(shape, generator=generator, device=device)


def rates(player: nn.Module, factor: float) -> Mapping[nn.Parameter, float]:
    """The factor of the learning rate, for every parameter of a player.

    Two players may learn at rates of their own (Heusel et al. 2017, arXiv:1706.08500, section 2).
    """
    return dict.fromkeys(player.parameters(), factor)


def initialise_as_dcgan(network: nn.Module) -> None:
    """Fill every weight from a normal distribution of standard deviation 0.02 (Radford et al. 2016, section 4)."""
    initialise(network, NormalInitialiser(name="normal", std=0.02))
