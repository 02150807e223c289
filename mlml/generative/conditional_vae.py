"""Conditional variational autoencoder (Sohn et al. 2015, NeurIPS, "Learning structured output representation").

Notation as in `mlml.generative._variational`; y are labels of k classes, the condition is their one-hot code. What the
paper calls x and y are our y and image.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mlml import distributed
from mlml.config import VariationalConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.generative._variational import Variational, draw
from mlml.method import Output


class Labelled(NamedTuple):
    """Images, the noise of their draws of z, and their classes."""

    images: Float[Tensor, "b c h w"]
    noise: Float[Tensor, "b d"]
    labels: Int[Tensor, " b"]


class ConditionalVAE(Variational):
    """A VAE whose posterior and decoder are told the class of the image, so that it can draw images of a class.

    The loss is the negative of Sohn et al. 2015, Eq. 4, per image in nats, with the KL term times `beta`. The prior
    p(z|y) is a normal distribution of each class, learnt with the rest, or the same for all, N(0, I), a case that their
    section 4.1 names: z must then hold nothing that the class tells, or samples are of other classes.
    """

    measures: tuple[str, ...] = ("reconstruction", "kl", "active_dimensions", "collapsed_dimensions")
    reads_labels = True

    class Config(VariationalConfig):
        """Numbers of the conditional VAE; those of the VAE, and its prior.

        Attributes:
            prior: "conditional", one of each class; "standard", N(0, I).
        """

        prior: Literal["conditional", "standard"] = "conditional"

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        if not spec.classes:
            name = type(self).__module__.rpartition(".")[2]
            raise ValueError(f"{name}: draws images of classes, but {spec.name!r} has no labels")
        super().__init__(config, spec, condition_dim=len(spec.classes))
        self.prior = nn.Linear(len(spec.classes), 2 * config.latent_dim) if config.prior == "conditional" else None
        if self.prior is not None:
            for parameter in self.prior.parameters():
                nn.init.zeros_(parameter)  # N(0, I) of every class to begin with

    def augment(self, batch: Batch, generator: torch.Generator) -> Labelled:
        images = shift_flip(batch.images, self.config.augment, generator) if self.training else batch.images
        noise = distributed.share(self.noise(distributed.total(len(images)), generator))
        return Labelled(images, noise, batch.labels)

    def forward(self, batch: Labelled, phase: str) -> Output:
        return self.bound(batch.images, self.one_hot(batch.labels), batch.noise)

    def prior_of(self, condition: Float[Tensor, "b k"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Mean and log variance of p(z|y)."""
        if self.prior is None:
            return super().prior_of(condition)
        mu, log_var = self.prior(condition).float().chunk(2, dim=1)
        return mu, log_var

    def one_hot(self, labels: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """The condition of labels, on the device of the method."""
        return F.one_hot(labels.to(self.kl_weight.device), len(self.spec.classes)).float()

    def sample(self, num_samples: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Images in [0, 1], of the classes in turn, so that of each there are as many, or one more."""
        return self.sample_classes(torch.arange(num_samples) % len(self.spec.classes), generator)

    def sample_classes(self, labels: Int[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw an image in [0, 1] of each class."""
        told = self.one_hot(labels)
        return self.logits(draw(*self.prior_of(told), self.noise(len(labels), generator)), told).sigmoid()

    def log_likelihood(
        self, images: Float[Tensor, "b c h w"], num_samples: int, generator: torch.Generator
    ) -> Float[Tensor, " b"]:
        """Lower bound on log p(x) of images in [0, 1] of whatever class, as `sample` draws them, in nats.

        As that of `vae`, with what is said there of likelihoods, so that the two compare. Draws are of (y, z): y goes
        through the classes in turn from a random one on, as likely under q as under p, and z is of q(z|x, y). Only one
        draw in k is of an image's own class: take k times as many for a bound as tight as the VAE's.
        """
        count = len(self.spec.classes)
        first = torch.randint(count, (len(images),), generator=generator, device=images.device)
        return self.log_likelihood_given(
            images, num_samples, generator, lambda number: self.one_hot((first + number) % count)
        )
