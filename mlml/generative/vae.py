"""Variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114), and beta-VAE (Higgins et al. 2017).

Notation as in `mlml.generative._variational`; there is no condition.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from mlml import distributed
from mlml.config import Declared, EncoderConfig, Probability, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.generative._variational import Variational
from mlml.method import Output


class Noisy(NamedTuple):
    """Images, and the standard normal noise of their draws of z."""

    images: Float[Tensor, "b c h w"]
    noise: Float[Tensor, "b d"]


class VAE(Variational):
    """Encoder to a Gaussian posterior, decoder back to pixels, trained on the evidence lower bound.

    The loss is the negative ELBO of Kingma & Welling 2014, Eq. 10, per image in nats, with the KL term times `beta`
    (Higgins et al. 2017, Eq. 4). `likelihood: bernoulli` is the binary cross entropy of the pixels; `gaussian` is a
    normal of variance 1/2 around the decoder's output, which is the summed squared error up to a constant that is
    left out.
    """

    measures = ("reconstruction", "kl", "active_dimensions", "collapsed_dimensions")

    class Config(Declared):
        """Numbers of the VAE.

        Attributes:
            kl_warmup: share of the run over which the weight of the KL term rises from 0 to `beta`; evaluations use
                `beta` all along.
        """

        encoder: EncoderConfig
        train: TrainConfig
        latent_dim: PositiveInt = 16
        decoder_width: PositiveInt = 32
        beta: NonNegativeFloat = 1.0
        kl_warmup: Probability = 0.0
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
        augment: ShiftFlipConfig = ShiftFlipConfig(padding=0, flip_prob=0.0)

    config: Config

    def augment(self, batch: Batch, generator: torch.Generator) -> Noisy:
        images = shift_flip(batch.images, self.config.augment, generator) if self.training else batch.images
        return Noisy(images, distributed.share(self.noise(distributed.total(len(images)), generator)))

    def forward(self, batch: Noisy, phase: str) -> Output:
        return self.bound(batch.images, _nothing(batch.images), batch.noise)

    def infer(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Mean and log variance of q(z|x)."""
        return self.posterior_of(self.encoder(images), _nothing(images))

    def decode(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1]: the decoder's mean."""
        return self.logits(z, _nothing(z)).sigmoid()

    def sample(self, num_samples: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Images in [0, 1] decoded from draws of the prior."""
        return self.decode(self.noise(num_samples, generator))

    def log_likelihood(
        self, images: Float[Tensor, "b c h w"], num_samples: int, generator: torch.Generator
    ) -> Float[Tensor, " b"]:
        """Lower bound on log p(x) of images in [0, 1] (Burda et al. 2016, Eq. 8), in nats.

        `gaussian`: of a density of pixels. `bernoulli`: of a probability where each pixel is 0 or 1, and there over the
        number of pixels and log 2 it is bits per dimension; the Bernoulli of a grey pixel does not sum to 1 over its
        values, so that numbers of grey images compare among methods of that likelihood alone, and are no bits.
        """
        told = _nothing(images)
        return self.log_likelihood_given(images, num_samples, generator, lambda _: told)

    def reconstruct(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Images decoded from the posterior's mean."""
        return self.decode(self.infer(images)[0])

    def interpolate(
        self, first: Float[Tensor, "b c h w"], last: Float[Tensor, "b c h w"], steps: int
    ) -> Float[Tensor, "b s c h w"]:
        """Decoded points of the great circle between two posterior means, both ends included.

        Spherical interpolation (White 2016, arXiv:1609.04468) stays where a Gaussian prior has its mass.
        """
        z0, z1 = self.infer(first)[0], self.infer(last)[0]
        cosine = F.cosine_similarity(z0, z1, dim=1).clamp(-1 + 1e-6, 1 - 1e-6)
        angle = cosine.acos()[:, None, None]  # (b, 1, 1)
        t = torch.linspace(0, 1, steps, device=z0.device)[None, :, None]  # (1, s, 1)
        z = ((1 - t) * angle).sin() / angle.sin() * z0[:, None] + (t * angle).sin() / angle.sin() * z1[:, None]
        return torch.unflatten(self.decode(z.flatten(0, 1)), 0, (len(z0), steps))


def _nothing(like: Tensor) -> Float[Tensor, "b 0"]:
    """The condition of no condition."""
    return like.new_zeros(len(like), 0)
