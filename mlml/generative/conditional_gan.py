"""Conditional GAN (Mirza & Osindero 2014, arXiv:1411.1784): images of a class.

Notation as in `mlml.generative._adversarial`; y are labels of k classes, phi(x) (b, d) the discriminator's features.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from mlml import distributed
from mlml.config import Declared, PlainNorm, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.generative import _adversarial as adversarial
from mlml.layers.deconvolution import Decoder
from mlml.layers.discriminator import ConvDiscriminator, normalise_spectrally
from mlml.method import Method, Output


class Drawn(NamedTuple):
    """Real images in [0, 1], and the latent vectors of as many others of the same classes."""

    images: Float[Tensor, "b c h w"]
    latents: Float[Tensor, "b d"]
    labels: Int[Tensor, " b"]


class ConditionalGenerator(nn.Module):
    """A decoder of a latent vector beside the one-hot code of the class: Mirza & Osindero 2014, Fig. 1.

    A learnt embedding in the place of the code, with torch's initial weights, is as long as the latent vector itself,
    which the generator then learns to ignore.
    """

    def __init__(self, config: "ConditionalGAN.Config", spec: DataSpec) -> None:
        super().__init__()
        self.num_classes, size = len(spec.classes), (spec.height, spec.width)
        latent_dim = config.latent_dim + self.num_classes
        self.decoder = Decoder(latent_dim, spec.channels, *size, config.generator_width)

    def forward(self, latents: Float[Tensor, "b d"], labels: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """Logits of pixels."""
        logits: Tensor = self.decoder(torch.cat([latents, F.one_hot(labels, self.num_classes).to(latents)], 1))
        return logits


class ProjectionDiscriminator(nn.Module):
    """Whether an image is a real one of its class: a logit of the image, and how well its features fit the class.

    Miyato & Koyama 2018, arXiv:1802.05637, Eq. 3: y^T V phi(x) + psi(phi(x)); V is the embedding, psi a linear map.

    Attributes:
        to_scores: from phi(x) to scores of the classes, where they are wanted (Odena et al. 2017).
    """

    def __init__(self, config: "ConditionalGAN.Config", spec: DataSpec, norm: PlainNorm) -> None:
        super().__init__()
        size = (spec.height, spec.width)
        self.judge = ConvDiscriminator(spec.channels, *size, config.discriminator_width, norm)
        self.embedding = nn.Embedding(len(spec.classes), self.judge.feature_dim)
        self.to_scores = nn.Linear(self.judge.feature_dim, len(spec.classes)) if config.auxiliary_weight else None

    def forward(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "b k"] | None]:
        """Logits of being real images of their classes, and scores of the classes."""
        features = self.judge.features(images)  # (b, d)
        logits: Tensor = self.judge.to_logit(features)[:, 0] + (self.embedding(labels) * features).sum(1)
        return logits, None if self.to_scores is None else self.to_scores(features)


class ConcatenationDiscriminator(nn.Module):
    """The same, of an image with the one-hot code of its class at every pixel: Mirza & Osindero 2014, Fig. 1."""

    def __init__(self, config: "ConditionalGAN.Config", spec: DataSpec, norm: PlainNorm) -> None:
        super().__init__()
        self.num_classes, size = len(spec.classes), (spec.height, spec.width)
        self.judge = ConvDiscriminator(spec.channels + self.num_classes, *size, config.discriminator_width, norm)

    def forward(self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]) -> tuple[Float[Tensor, " b"], None]:
        """Logits of being real images of their classes."""
        code = F.one_hot(labels, self.num_classes).to(images)[..., None, None]  # (b, k, 1, 1)
        logits: Tensor = self.judge(torch.cat([images, code.expand(-1, -1, *images.shape[2:])], 1))
        return logits, None


class ConditionalGAN(Method):
    """A GAN both of whose players are told the class: Mirza & Osindero 2014, Eq. 2.

    Generated images are of the classes of the batch. Both players, and a step, are otherwise those of `gan`.

    With `auxiliary_weight` the discriminator also tells the class (Odena et al. 2017, arXiv:1610.09585, Eq. 3), and
    both players minimise the cross entropy of that, the discriminator of real images, the generator of its own. The
    paper's discriminator learns the classes of generated images, too, which at first are of none.
    """

    phases: tuple[str, ...] = ("discriminator", "generator")
    measures = ("diversity",)
    loss_falls = False  # what it is measured by, the other player, learns too
    reads_labels = True

    class Config(Declared):
        """Numbers of the conditional GAN; those of the GAN, and how the players are told.

        Attributes:
            conditioning: of the discriminator; "projection" is that of Miyato & Koyama 2018, arXiv:1802.05637, with
                which images are better than with "concatenation", the original.
            auxiliary_weight: of the cross entropy of classes, with "projection". Above 0, images show their class more
                plainly than real ones do, and are less various.
        """

        train: TrainConfig
        latent_dim: PositiveInt = 100
        prior: Literal["uniform", "normal"] = "uniform"
        conditioning: Literal["projection", "concatenation"] = "projection"
        auxiliary_weight: NonNegativeFloat = 0.0
        loss: Literal["minimax", "non_saturating", "hinge"] = "non_saturating"
        spectral_norm: bool = False
        r1_gamma: NonNegativeFloat = 0.0
        discriminator_norm: Literal["batch", "layer", "instance", "none"] | None = None
        discriminator_steps: PositiveInt = 1
        generator_rate: PositiveFloat = 1.0
        generator_width: PositiveInt = 64
        discriminator_width: PositiveInt = 64
        augment: ShiftFlipConfig = ShiftFlipConfig(padding=0, flip_prob=0.0)

        @model_validator(mode="after")
        def _own_gradients(self) -> Self:
            if self.r1_gamma > 0 and self.discriminator_norm == "batch":
                raise ValueError("discriminator_norm must not be 'batch' where r1_gamma is above 0; it mixes images")
            return self

        @model_validator(mode="after")
        def _tells_what_it_is_not_told(self) -> Self:
            if self.auxiliary_weight > 0 and self.conditioning == "concatenation":
                raise ValueError(
                    f"auxiliary_weight must be 0 with conditioning 'concatenation', whose discriminator sees the class "
                    f"in its input; got {self.auxiliary_weight:g}; take 'projection'"
                )
            return self

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        if not spec.classes:
            raise ValueError(f"conditional_gan: draws images of classes, but {spec.name!r} has no labels")
        super().__init__(config, spec)
        norm = config.discriminator_norm or ("none" if config.spectral_norm or config.r1_gamma else "batch")
        kind = ProjectionDiscriminator if config.conditioning == "projection" else ConcatenationDiscriminator
        self.generator = ConditionalGenerator(config, spec)
        self.discriminator = kind(config, spec, PlainNorm(name=norm))
        for player in (self.generator, self.discriminator):
            adversarial.initialise_as_dcgan(player)
        if config.spectral_norm:
            normalise_spectrally(self.discriminator)
        self.phases = ("discriminator",) * config.discriminator_steps + ("generator",)

    def augment(self, batch: Batch, generator: torch.Generator) -> Drawn:
        images = shift_flip(batch.images, self.config.augment, generator) if self.training else batch.images
        latents = distributed.share(self._latents(distributed.total(len(images)), generator))
        return Drawn(images, latents, batch.labels)

    def phase_parameters(self, phase: str) -> Iterable[nn.Parameter]:
        return (self.discriminator if phase == "discriminator" else self.generator).parameters()

    def rate_factors(self, phase: str) -> Mapping[nn.Parameter, float]:
        return adversarial.rates(self.generator, self.config.generator_rate) if phase == "generator" else {}

    def forward(self, batch: Drawn, phase: str) -> Output:
        config, images = self.config, 2 * batch.images - 1
        taken_for: list[Tensor | None] = []  # scores of the images that were judged, in their order

        def judged(images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
            logits: Tensor
            logits, scores = self.discriminator(images, batch.labels)
            taken_for.append(scores)
            return logits.float()

        if phase == "generator":
            made = self._made(batch.latents, batch.labels)
            loss = adversarial.generator_loss(config.loss, judged(made))
            loss = loss + self._misclassified(taken_for[0], batch.labels)
            return Output(loss, {"diversity": adversarial.diversity(made, images)})
        with torch.no_grad():
            made = self._made(batch.latents, batch.labels)
        real, penalty = adversarial.judged_with_r1(judged, images, config.r1_gamma)
        fake = judged(made)
        loss = adversarial.discriminator_loss(config.loss, real, fake) + penalty
        return Output(loss + self._misclassified(taken_for[0], batch.labels), adversarial.standing(real, fake))

    def _misclassified(self, scores: Float[Tensor, "b k"] | None, labels: Int[Tensor, " b"]) -> Tensor | float:
        """Weighted cross entropy of the classes that images were taken for; 0 where nobody asks for them."""
        return 0.0 if scores is None else self.config.auxiliary_weight * F.cross_entropy(scores.float(), labels)

    def sample(self, num_samples: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Images in [0, 1], of the classes in turn, so that of each there are as many, or one more."""
        return self.sample_classes(torch.arange(num_samples) % len(self.spec.classes), generator)

    @torch.no_grad()
    def sample_classes(self, labels: Int[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw an image in [0, 1] of each class."""
        latents = self._latents(len(labels), generator)
        return (self._made(latents, labels.to(latents.device)) + 1) / 2

    def _latents(self, num_latents: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        return adversarial.draw_latents(self.config.prior, num_latents, self.config.latent_dim, generator)

    def _made(self, latents: Float[Tensor, "b d"], labels: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """Images in [-1, 1] of latent vectors and classes."""
        made: Tensor = self.generator(latents, labels).float().tanh()
        return made
