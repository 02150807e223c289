"""Variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114), and beta-VAE (Higgins et al. 2017).

Notation: `mu`, `log_var` (b, latent_dim) are mean and log variance of q(z|x); z is a draw of it; p(z) = N(0, I).
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from mlml import distributed, models
from mlml.config import Declared, EncoderConfig, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.layers.deconvolution import Decoder
from mlml.method import Method, Output


def kl_to_standard_normal(mu: Float[Tensor, "b d"], log_var: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """KL(N(mu, exp(log_var)) || N(0, I)) of each row, in nats (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(1)


class Noisy(NamedTuple):
    """Images, and the standard normal noise of their draws of z."""

    images: Float[Tensor, "b c h w"]
    noise: Float[Tensor, "b d"]


class VAE(Method):
    """Encoder to a Gaussian posterior, decoder back to pixels, trained on the evidence lower bound.

    The loss is the negative ELBO of Kingma & Welling 2014, Eq. 10, per image in nats, with the KL term times `beta`
    (Higgins et al. 2017, Eq. 4). `likelihood: bernoulli` is the binary cross entropy of the pixels; `gaussian` is a
    normal of variance 1/2 around the decoder's output, which is the summed squared error up to a constant that is
    left out.
    """

    measures = ("reconstruction", "kl")

    class Config(Declared):
        """Numbers of the VAE."""

        encoder: EncoderConfig
        train: TrainConfig
        latent_dim: PositiveInt = 16
        decoder_width: PositiveInt = 32
        beta: NonNegativeFloat = 1.0
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
        augment: ShiftFlipConfig = ShiftFlipConfig(padding=0, flip_prob=0.0)

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim
        self.posterior = nn.Linear(self.feature_dim, 2 * config.latent_dim)
        self.decoder = Decoder(config.latent_dim, spec.channels, spec.height, spec.width, config.decoder_width)

    def augment(self, batch: Batch, generator: torch.Generator) -> Noisy:
        images = shift_flip(batch.images, self.config.augment, generator) if self.training else batch.images
        shape = (distributed.total(len(images)), self.config.latent_dim)
        return Noisy(images, distributed.share(torch.randn(shape, generator=generator, device=images.device)))

    def forward(self, batch: Noisy, phase: str) -> Output:
        mu, log_var = self.infer(batch.images)
        z = mu + (0.5 * log_var).exp() * batch.noise  # Eq. 4: the reparameterisation
        logits = self.decoder(z).float()  # (b, c, h, w)
        if self.config.likelihood == "bernoulli":
            error = F.binary_cross_entropy_with_logits(logits, batch.images, reduction="none")
        else:
            error = (logits.sigmoid() - batch.images).square()
        reconstruction, kl = error.flatten(1).sum(1).mean(), kl_to_standard_normal(mu, log_var).mean()
        return Output(reconstruction + self.config.beta * kl, {"reconstruction": reconstruction, "kl": kl})

    def infer(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Mean and log variance of q(z|x)."""
        mu, log_var = self.posterior(self.encoder(images)).float().chunk(2, dim=1)
        return mu, log_var

    def decode(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1]: the decoder's mean."""
        images: Tensor = self.decoder(z).sigmoid()
        return images

    def sample(self, num_samples: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Images in [0, 1] decoded from draws of the prior."""
        device = next(self.parameters()).device
        z = torch.randn(num_samples, self.config.latent_dim, generator=generator, device=device)
        return self.decode(z)

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

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]: the encoder's, before the posterior."""
        features: Tensor = self.encoder(images)
        return features
