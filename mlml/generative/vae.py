"""Variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114), and beta-VAE (Higgins et al. 2017).

Notation as in `mlml.generative._variational`; there is no condition.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mlml.config import VariationalConfig
from mlml.generative._variational import Unconditional, nothing


class VAE(Unconditional):
    """Encoder to a Gaussian posterior, decoder back to pixels, trained on the evidence lower bound.

    The loss is the negative ELBO of Kingma & Welling 2014, Eq. 10, per image in nats, with the KL term times `beta`
    (Higgins et al. 2017, Eq. 4). `likelihood: bernoulli` is the binary cross entropy of the pixels; `gaussian` is a
    normal of variance 1/2 around the decoder's output, which is the summed squared error up to a constant that is
    left out.
    """

    measures = ("reconstruction", "kl", "active_dimensions", "collapsed_dimensions")

    class Config(VariationalConfig):
        """Numbers of the VAE."""

    config: Config

    def log_likelihood(
        self, images: Float[Tensor, "b c h w"], num_samples: int, generator: torch.Generator
    ) -> Float[Tensor, " b"]:
        """Lower bound on log p(x) of images in [0, 1] (Burda et al. 2016, Eq. 8), in nats.

        `gaussian`: of a density of pixels. `bernoulli`: of a probability where each pixel is 0 or 1, and there over the
        number of pixels and log 2 it is bits per dimension; the Bernoulli of a grey pixel does not sum to 1 over its
        values, so that numbers of grey images compare among methods of that likelihood alone, and are no bits.
        """
        told = nothing(images)
        return self.log_likelihood_given(images, num_samples, generator, lambda _: told)
