"""The contract between a method and the training loop."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mlml.config import Declared
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec


class Output(NamedTuple):
    """What one phase of a method returns: the scalar to minimise, and scalars to log.

    Tensors, not floats: the loop reads them every few steps, so that a GPU is not made to wait.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = MappingProxyType({})


class Method(nn.Module):
    """Networks plus objective. Data order, optimizer, schedule, precision, EMA and DDP belong to `fit`.

    Attributes:
        phases: what one step runs, in order; a GAN says ("discriminator", "generator"). Empty: nothing to train.
        targets: what the labels of its batches are, "labels" of images, "masks" or "captions"; checked before anything
            runs.
        measures: names of the metrics that `forward` returns beside the loss, as a literal, so that a comparison of
            others is refused before anything runs. None: not told.
        reads_labels: whether training does; a pretext that does not never looks at them. Labels pull the features of
            a class together, so few directions of them are no illness there.
        loss_falls: whether a train loss that rises or stays is an illness, as a literal. Not where it rises by its
            nature, as against a queue or a teacher that gets better, or hardly moves: then `mlml.diagnostics` judges
            neither its course nor bias and variance, but tells of one that explodes or swings.
        channels: of the images that it can learn from, as a literal; checked before anything runs where the source
            tells of its own. None: any.
    """

    Config: ClassVar[type[Declared]]
    phases: tuple[str, ...] = ("train",)
    targets: ClassVar[str] = "labels"
    measures: tuple[str, ...] | None = None
    reads_labels: ClassVar[bool] = False
    loss_falls: ClassVar[bool] = True
    channels: ClassVar[int | None] = None

    def __init__(self, config: Any, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec

    def augment(self, batch: Batch, generator: torch.Generator) -> Any:
        """Turn a batch of images in [0, 1] into what `forward` takes; batched, on the device.

        Draws only from `generator`, which is in the same state on every rank: draw for `distributed.total(b)` images
        and keep `distributed.share` of it. In eval mode it draws the same for the same generator.
        """
        return batch

    def phase_parameters(self, phase: str) -> Iterable[nn.Parameter]:
        """Parameters that the optimizer of `phase` updates. Parameters in no phase stay frozen."""
        return self.parameters()

    def rate_factors(self, phase: str) -> Mapping[nn.Parameter, float]:
        """What the learning rate is multiplied by, for parameters of `phase` that do not have the declared one."""
        return {}

    def forward(self, batch: Any, phase: str) -> Output:
        """Return the loss of one batch in one phase. It is `forward`, so that DDP's hooks fire."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Update what has no gradient (a momentum teacher); `progress` runs from 0 to 1 over the run."""


class Composed(Method):
    """A method that stands on another trained one, its base, which stays as it was trained.

    The base is part of the method and of what is saved of it, but of no phase; it is in eval mode all along, so that no
    buffer of its moves either. What `forward` asks of it beside its own `forward` are functions of its parts.

    Attributes:
        base_families: sections of params.yaml whose experiments can be the base, as a literal; checked before anything
            runs, as is the data set, which must be the method's own.
        base_needs: names of the functions that the method calls of its base, as a literal; checked the same.
        base_seed: "same" where each seed stands on the base of that seed, "first" where all stand on the base's first,
            so that their losses compare; as a literal.
    """

    base_families: ClassVar[tuple[str, ...]] = ()
    base_needs: ClassVar[tuple[str, ...]] = ()
    base_seed: ClassVar[str] = "same"

    def __init__(self, config: Any, spec: DataSpec, base: Method) -> None:
        super().__init__(config, spec)
        self.base = base.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the base."""
        super().train(mode)
        self.base.eval()
        return self

    def phase_parameters(self, phase: str) -> Iterable[nn.Parameter]:
        """All but those of the base."""
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("base."))


@runtime_checkable
class Encodes(Protocol):
    """A method with an encoder that probes can evaluate."""

    feature_dim: int

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]."""
        ...


@runtime_checkable
class Scores(Protocol):
    """A method that tells of classes: of each image, or of each of its pixels, as its `targets` say."""

    def scores(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k *grid"]:
        """Scores of k classes for images in [0, 1]; the largest is the prediction."""
        ...


@runtime_checkable
class Tags(Protocol):
    """A method that tells which words an image's caption has."""

    def word_scores(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b v"]:
        """Log odds of the v words of the vocabulary for images in [0, 1]; a word is there where they are above 0."""
        ...


@runtime_checkable
class Samples(Protocol):
    """A method that generates images."""

    def sample(self, num_samples: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw images in [0, 1]."""
        ...


@runtime_checkable
class SamplesTexts(Protocol):
    """A method that generates images of what a text says."""

    def sample_texts(
        self, texts: Sequence[str], generator: torch.Generator, guidance_scale: float | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Draw an image in [0, 1] of each text; a larger scale keeps closer to it, None is the declared one."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """A method that maps images to a latent space and back."""

    def reconstruct(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1] after a pass through the latent space."""
        ...

    def interpolate(
        self, first: Float[Tensor, "b c h w"], last: Float[Tensor, "b c h w"], steps: int
    ) -> Float[Tensor, "b s c h w"]:
        """Images along the path between two images' latents, both ends included."""
        ...


@runtime_checkable
class Sheets(Protocol):
    """A method that can show what it does to images: rows of pictures, one column for each image."""

    def illustrate(
        self, images: Float[Tensor, "b c h w"], generator: torch.Generator
    ) -> dict[str, Float[Tensor, "b c h w"]]:
        """Pictures in [0, 1] of the images' size, by the name of their row, first row first.

        In eval mode; draws only from `generator`, and moves no state.
        """
        ...


@runtime_checkable
class SamplesClasses(Protocol):
    """A method that generates images of a class that it is told."""

    def sample_classes(self, labels: Int[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw an image in [0, 1] of each class."""
        ...


@runtime_checkable
class Infers(Protocol):
    """A method with a latent vector of standard normal prior, of which an image tells by a Gaussian posterior."""

    def infer(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Mean and log variance of the posterior of images in [0, 1]."""
        ...

    def decode(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1] of latent vectors."""
        ...


@runtime_checkable
class Likelihood(Protocol):
    """A method that tells how likely an image is to be drawn."""

    def log_likelihood(
        self, images: Float[Tensor, "b c h w"], num_samples: int, generator: torch.Generator
    ) -> Float[Tensor, " b"]:
        """Log likelihood of images in [0, 1], in nats, or a lower bound that more samples tighten."""
        ...


@runtime_checkable
class Edits(Protocol):
    """A method that paints a region of an image anew, as a text says."""

    def edit(
        self,
        images: Float[Tensor, "n c h w"],
        masks: Bool[Tensor, "n h w"],
        texts: Sequence[str],
        generator: torch.Generator,
        guidance_scale: float | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Images in [0, 1] that are new where the mask is true, and bit for bit the given ones elsewhere.

        A larger scale keeps closer to the text, None is the declared one.
        """
        ...


@runtime_checkable
class Guides(Protocol):
    """A method whose samples keep more or less closely to their condition."""

    def sample_guided(
        self, num_samples: int, guidance_scale: float, generator: torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        """Draw images in [0, 1] of the method's conditions in turn; 1 is no guidance."""
        ...


@runtime_checkable
class InSteps(Protocol):
    """A method that draws in as many steps as one likes."""

    def in_steps(self, steps: int) -> AbstractContextManager[None]:
        """Within the block it draws in so many steps, and not in those that it declares.

        Raises:
            ValueError: more steps than it has timesteps.
        """
        ...


@runtime_checkable
class Diffuses(Protocol):
    """A method that makes images of noise step by step."""

    def film(
        self, images: Float[Tensor, "b c h w"], num_frames: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "b s c h w"], Float[Tensor, "b s c h w"]]:
        """Frames in [0, 1] of these images becoming noise, and of noise becoming as many new images."""
        ...
