"""What variational autoencoders have in common: Gaussian posterior, decoder, evidence lower bound, and its tightening.

Notation: `mu`, `log_var` (b, d) are mean and log variance of q(z|x), d = `latent_dim`; z is a draw of it, noise its
standard normal draw. A condition y (b, k) is what encoder and decoder are told beside the image, such as its class;
k = 0 for none. p(z|y) = N(0, I), unless a method has another.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlml import distributed, models
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.layers.deconvolution import Decoder
from mlml.method import Method, Output

ACTIVE = 0.01
"""Mean KL in nats above which a latent dimension is active: it tells something of the image. Burda et al. 2016, section
5.2, take the same threshold for the variance of its posterior mean; the KL also sees a posterior that is narrower."""

Likelihoods = Literal["bernoulli", "gaussian"]


def kl_per_dimension(mu: Float[Tensor, "b d"], log_var: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """KL(N(mu, exp(log_var)) || N(0, 1)) of each latent dimension, in nats (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var)


def kl_between(
    mu: Float[Tensor, "b d"],
    log_var: Float[Tensor, "b d"],
    prior_mu: Float[Tensor, "b d"],
    prior_log_var: Float[Tensor, "b d"],
) -> Float[Tensor, "b d"]:
    """KL(N(mu, exp(log_var)) || N(prior_mu, exp(prior_log_var))) of each latent dimension, in nats.

    It stays as it is when both are shifted and scaled alike, here so that the second is N(0, 1).
    """
    return kl_per_dimension((mu - prior_mu) * (-0.5 * prior_log_var).exp(), log_var - prior_log_var)


def draw(mu: Float[Tensor, "b d"], log_var: Float[Tensor, "b d"], noise: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Return z of standard normal noise: the reparameterisation of Kingma & Welling 2014, Eq. 4."""
    return mu + (0.5 * log_var).exp() * noise


def log_normal(z: Float[Tensor, "b d"], mu: Float[Tensor, "b d"], log_var: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Log density of each row of z under N(mu, exp(log_var)), in nats."""
    return -0.5 * (math.log(2 * math.pi) + log_var + (z - mu).square() / log_var.exp()).sum(1)


def log_likelihood_of_pixels(
    logits: Float[Tensor, "b c h w"], images: Float[Tensor, "b c h w"], likelihood: Likelihoods
) -> Float[Tensor, " b"]:
    """Log p(x|z) of each image, in nats, up to the constant that `log_constant` returns.

    "bernoulli" is the negative binary cross entropy of the pixels; "gaussian" a normal of variance 1/2 around the
    decoder's output, so the negative squared error. Both are sums over the pixels of an image.
    """
    if likelihood == "bernoulli":
        each = -F.binary_cross_entropy_with_logits(logits, images, reduction="none")
    else:
        each = -(logits.sigmoid() - images).square()
    return each.flatten(1).sum(1)


def log_constant(num_pixels: int, likelihood: Likelihoods) -> float:
    """What `log_likelihood_of_pixels` leaves out of log p(x|z): that of a normal of variance 1/2."""
    return -0.5 * num_pixels * math.log(math.pi) if likelihood == "gaussian" else 0.0


def importance_weighted_bound(
    log_p_x_given_z: Float[Tensor, "k b"], log_p_z: Float[Tensor, "k b"], log_q_z: Float[Tensor, "k b"]
) -> Float[Tensor, " b"]:
    """Lower bound on log p(x) of each image by k draws of z from q(z|x): Burda et al. 2016, arXiv:1509.00519, Eq. 8.

    With one draw it is the evidence lower bound in expectation; it rises with k towards log p(x) (their Theorem 1).

    Args:
        log_p_x_given_z: of the image, given each draw.
        log_p_z: of each draw under the prior.
        log_q_z: of each draw under the posterior that it is from.

    Returns:
        Nats.
    """
    return torch.logsumexp(log_p_x_given_z + log_p_z - log_q_z, 0) - math.log(len(log_p_z))


def great_circle(z0: Float[Tensor, "b d"], z1: Float[Tensor, "b d"], steps: int) -> Float[Tensor, "b s d"]:
    """Points of the great circle between two latents, both ends included.

    Spherical interpolation (White 2016, arXiv:1609.04468) stays where a Gaussian prior has its mass.
    """
    cosine = F.cosine_similarity(z0, z1, dim=1).clamp(-1 + 1e-6, 1 - 1e-6)
    angle = cosine.acos()[:, None, None]  # (b, 1, 1)
    t = torch.linspace(0, 1, steps, device=z0.device)[None, :, None]  # (1, s, 1)
    return ((1 - t) * angle).sin() / angle.sin() * z0[:, None] + (t * angle).sin() / angle.sin() * z1[:, None]


def warmed_up(beta: float, warmup: float, progress: float) -> float:
    """Weight of the KL term: a straight line from 0 to `beta` over the first `warmup` of the run, `beta` from there on.

    Bowman et al. 2016, arXiv:1511.06349, section 3.1; Sonderby et al. 2016, arXiv:1602.02282, section 2.3.
    """
    return beta * min(1.0, progress / warmup) if warmup > 0 else beta


class Noisy(NamedTuple):
    """Images, and the standard normal noise of their draws of z."""

    images: Float[Tensor, "b c h w"]
    noise: Float[Tensor, "b d"]


class Variational(Method):
    """A method with an encoder to a Gaussian posterior, and a decoder back to pixels.

    Its config has `encoder`, `latent_dim`, `decoder_width`, `beta`, `kl_warmup` and `likelihood`.

    Attributes:
        posterior: from the encoder's features and the condition to `mu` and `log_var`.
        decoder: from z and the condition to the logits of pixels.
        kl_weight: of the KL term in the step to come; a buffer, so that a run that goes on has it.
    """

    kl_weight: Tensor

    def __init__(self, config: Any, spec: DataSpec, condition_dim: int = 0) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim: int = self.encoder.feature_dim
        self.posterior = nn.Linear(self.feature_dim + condition_dim, 2 * config.latent_dim)
        self.decoder = Decoder(
            config.latent_dim + condition_dim, spec.channels, spec.height, spec.width, config.decoder_width
        )
        self.register_buffer("kl_weight", torch.tensor(warmed_up(config.beta, config.kl_warmup, 0.0)))

    def after_step(self, progress: float) -> None:
        self.kl_weight.fill_(warmed_up(self.config.beta, self.config.kl_warmup, progress))

    def bound(
        self, images: Float[Tensor, "b c h w"], condition: Float[Tensor, "b k"], noise: Float[Tensor, "b d"]
    ) -> Output:
        """Negative evidence lower bound, mean over images, in nats: Kingma & Welling 2014, Eq. 10.

        The KL term is times `kl_weight`, and in eval mode times `beta`: evaluations during a warm-up measure what is
        trained for in the end, and so can be compared.
        """
        mu, log_var = self.posterior_of(self.encoder(images), condition)
        logits = self.logits(draw(mu, log_var, noise), condition)
        kl = kl_between(mu, log_var, *self.prior_of(condition))  # (b, d)
        reconstruction, parts = self.reconstruction(logits, images)
        weight = self.kl_weight if self.training else self.config.beta
        active = (distributed.mean(kl.detach().mean(0)) > ACTIVE).float().sum()  # of the batch of all processes
        total = kl.sum(1).mean()
        metrics = {
            "reconstruction": reconstruction,
            "kl": total,
            "active_dimensions": active,
            "collapsed_dimensions": kl.shape[1] - active,
            **parts,
        }
        return Output(reconstruction + weight * total, metrics)

    def reconstruction(self, logits: Float[Tensor, "b c h w"], images: Float[Tensor, "b c h w"]) -> Output:
        """What stands in the bound for how far the decoder is from the images, and its parts, if it has some.

        Here it is minus the log likelihood of the pixels, the mean over images, in nats.
        """
        return Output(-log_likelihood_of_pixels(logits, images, self.config.likelihood).mean())

    def prior_of(self, condition: Float[Tensor, "b k"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Mean and log variance of p(z|y): here of N(0, I)."""
        origin = condition.new_zeros(len(condition), self.config.latent_dim)
        return origin, origin

    def posterior_of(
        self, features: Float[Tensor, "b f"], condition: Float[Tensor, "b k"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Mean and log variance of q(z|x), from features of the encoder."""
        mu, log_var = self.posterior(torch.cat([features, condition], 1)).float().chunk(2, dim=1)
        return mu, log_var

    def logits(self, z: Float[Tensor, "b d"], condition: Float[Tensor, "b k"]) -> Float[Tensor, "b c h w"]:
        """Logits of the pixels."""
        logits: Tensor = self.decoder(torch.cat([z, condition], 1)).float()
        return logits

    def noise(self, count: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Standard normal noise, on the device of the method."""
        return torch.randn(count, self.config.latent_dim, generator=generator, device=self.kl_weight.device)

    @torch.no_grad()
    def log_likelihood_given(
        self,
        images: Float[Tensor, "b c h w"],
        num_samples: int,
        generator: torch.Generator,
        condition: Callable[[int], Tensor],
    ) -> Float[Tensor, " b"]:
        """`importance_weighted_bound` of images by draws of the posterior; the condition is that of each draw."""
        features = self.encoder(images)
        constant = log_constant(images[0].numel(), self.config.likelihood)
        draws = []
        for number in range(num_samples):
            told = condition(number)
            mu, log_var = self.posterior_of(features, told)
            z = draw(mu, log_var, self.noise(len(images), generator))
            pixels = log_likelihood_of_pixels(self.logits(z, told), images, self.config.likelihood) + constant
            draws.append((pixels, log_normal(z, *self.prior_of(told)), log_normal(z, mu, log_var)))
        return importance_weighted_bound(*(torch.stack(each) for each in zip(*draws, strict=True)))

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Features of images in [0, 1]: the encoder's, before the posterior."""
        features: Tensor = self.encoder(images)
        return features


class Unconditional(Variational):
    """One whose encoder and decoder are told of the image alone; its config also has `augment`."""

    def augment(self, batch: Batch, generator: torch.Generator) -> Noisy:
        images = shift_flip(batch.images, self.config.augment, generator) if self.training else batch.images
        return Noisy(images, distributed.share(self.noise(distributed.total(len(images)), generator)))

    def forward(self, batch: Noisy, phase: str) -> Output:
        return self.bound(batch.images, nothing(batch.images), batch.noise)

    def infer(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Mean and log variance of q(z|x)."""
        return self.posterior_of(self.encoder(images), nothing(images))

    def decode(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1]: the decoder's mean."""
        return self.logits(z, nothing(z)).sigmoid()

    def sample(self, num_samples: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Images in [0, 1] decoded from draws of the prior."""
        return self.decode(self.noise(num_samples, generator))

    def reconstruct(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Images decoded from the posterior's mean."""
        return self.decode(self.infer(images)[0])

    def interpolate(
        self, first: Float[Tensor, "b c h w"], last: Float[Tensor, "b c h w"], steps: int
    ) -> Float[Tensor, "b s c h w"]:
        """Decoded points of the great circle between two posterior means, both ends included."""
        z = great_circle(self.infer(first)[0], self.infer(last)[0], steps)
        return torch.unflatten(self.decode(z.flatten(0, 1)), 0, (len(first), steps))


def nothing(like: Tensor) -> Float[Tensor, "b 0"]:
    """The condition of no condition."""
    return like.new_zeros(len(like), 0)
