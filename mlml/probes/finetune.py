"""Fine-tuning: the whole network on labels, from the head down (Howard & Ruder 2018, arXiv:1801.06146, section 3.3).

Notation: the encoder's layers lie in G groups, 1 the nearest to the image; the head is group G + 1.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from mlml.config import BelowOne, Declared, LabelFraction, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch, split_batches
from mlml.data.dataset import PreparedData
from mlml.method import Encodes, Method, Output
from mlml.probes._features import check
from mlml.seeds import seed_everything
from mlml.train import evaluate, fit


class Group(NamedTuple):
    """Layers that begin to learn together."""

    modules: list[nn.Module]
    parameters: list[nn.Parameter]


class FineTuned(Method):
    """A copy of an encoder with a linear layer on top, whose groups learn one after the other.

    A closed group has no gradient, so no optimizer touches it, not even by its weight decay, and its norms are those of
    eval mode. What is open follows from the share of the run that is done, a buffer: a resumed run goes on exactly.
    """

    def __init__(self, encoder: Method, config: "FineTune.Config", num_classes: int) -> None:
        nn.Module.__init__(self)
        assert isinstance(encoder, Encodes)
        self.config = config
        self.encoder = copy.deepcopy(encoder)
        self.head = nn.Linear(encoder.feature_dim, num_classes)
        self.groups = layer_groups(self.encoder, config.num_groups)
        self.progress: Tensor
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self.done = 0.0  # the same number, for which no GPU is waited for
        self.register_load_state_dict_post_hook(_recall)  # type: ignore[no-untyped-call]

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        if not self.training:
            return batch
        return batch._replace(images=shift_flip(batch.images, self.config.augment, generator))

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        return [*self.head.parameters(), *(p for group in self.groups for p in group.parameters)]

    def rate_factors(self, phase: str) -> Mapping[nn.Parameter, float]:
        count = len(self.groups)
        factors = [self.config.rate_decay ** (count - place) for place in range(count)]
        return {p: factor for group, factor in zip(self.groups, factors, strict=True) for p in group.parameters}

    def forward(self, batch: Batch, phase: str) -> Output:
        if self.training:
            self._open()
        scores = self.head(self.encoder.encode(batch.images)).float()  # (b, classes)
        accuracy = (scores.argmax(1) == batch.labels).float().mean()
        return Output(F.cross_entropy(scores, batch.labels), {"accuracy": accuracy})

    def after_step(self, progress: float) -> None:
        self.done = progress
        self.progress.fill_(progress)

    def opening(self, place: int) -> float:
        """Share of the run after which the group at a place, 0 the first, learns: the last after the warm-up."""
        behind = len(self.groups) - 1 - place
        share: float = behind / max(len(self.groups) - 1, 1)
        return float(self.config.frozen_share + self.config.unfreezing_share * share)

    def _open(self) -> None:
        """Let the groups learn whose time has come."""
        opened = [self.done >= self.opening(place) for place in range(len(self.groups))]
        self.encoder.train(any(opened))
        for group, is_open in zip(self.groups, opened, strict=True):
            for module in group.modules:
                module.training = is_open  # not `train`, which would reach into the modules below
            for parameter in group.parameters:
                parameter.requires_grad_(is_open)


class FineTune:
    """One network for each learning rate; the one that is best on validation is read on test, once.

    At first the head learns alone, then the groups of the encoder join it, the last one first. The rate of a group is
    the declared one times `rate_decay` to the power of its distance to the head, whatever the optimizer. The encoder is
    copied; the model that was saved stays as it is.
    """

    measures = ("accuracy",)
    inputs = "images"

    class Config(Declared):
        """Numbers of the fine-tuning; `encoder` names the experiment whose encoder is evaluated.

        Attributes:
            learning_rates: of the head; a single one is not chosen but given.
            num_groups: G, of about as many layers each; no more than the encoder has layers.
            rate_decay: from a group to the one before it; the default is the paper's.
            frozen_share: of the run, in which the head learns alone.
            unfreezing_share: of the run, from when the last group joins to when the first does.
        """

        encoder: str
        label_fraction: LabelFraction = 1.0
        learning_rates: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (3e-4, 1e-3, 3e-3)
        num_groups: PositiveInt = 3
        rate_decay: Annotated[float, Field(gt=0, le=1)] = 1 / 2.6
        frozen_share: BelowOne = 0.2
        unfreezing_share: BelowOne = 0.3
        augment: ShiftFlipConfig = ShiftFlipConfig()
        train: TrainConfig = TrainConfig(epochs=20)

        @model_validator(mode="after")
        def _fits(self) -> "FineTune.Config":
            if self.frozen_share + self.unfreezing_share >= 1:
                raise ValueError(
                    "frozen_share and unfreezing_share must sum to less than 1, so that the first group learns at all; "
                    f"got {self.frozen_share} and {self.unfreezing_share}"
                )
            return self

    def __init__(self, config: Config) -> None:
        self.config = config

    def evaluate(
        self, encoder: Method, data: PreparedData, seed: int, folder: Path, device: torch.device
    ) -> dict[str, float]:
        """Return the accuracies of the chosen network on validation and test, and its learning rate.

        Raises:
            TypeError, DataError: as `mlml.probes._features.check`.
        """
        check(encoder, data)
        best: tuple[float, float, FineTuned] | None = None
        for number, learning_rate in enumerate(self.config.learning_rates):
            network, accuracy = self._train(encoder, data, learning_rate, seed, folder / str(number), device)
            if best is None or accuracy > best[0]:
                best = (accuracy, learning_rate, network)
        assert best is not None
        test = split_batches(data, "test", self.config.train.batch_size, seed, device)
        return {
            "validation/accuracy": best[0],
            "test/accuracy": evaluate(best[2], test, seed)["accuracy"],
            "learning_rate": best[1],
        }

    def _train(
        self, encoder: Method, data: PreparedData, learning_rate: float, seed: int, folder: Path, device: torch.device
    ) -> tuple[FineTuned, float]:
        seed_everything(seed, "finetune")
        network = FineTuned(encoder, self.config, len(data.spec.classes)).to(device)
        optimizer = self.config.train.optimizer.model_copy(update={"learning_rate": learning_rate})
        config = self.config.train.model_copy(update={"optimizer": optimizer})
        splits = [split_batches(data, name, config.batch_size, seed, device) for name in ("train", "validation")]
        fitted = fit(network, splits[0], splits[1], config, seed, folder)
        return network, fitted.metrics["validation/accuracy"]


def layer_groups(encoder: Method, num_groups: int) -> list[Group]:
    """Cut the layers of an encoder into groups of about as many, in the order in which its classes name them.

    A layer is a module that owns weights which the features depend on; norms and other vectors go with the layer before
    them. A projector, on which no feature depends, is in no group.

    Args:
        encoder: whose gradients are switched on.
        num_groups: of groups; fewer where there are fewer layers.

    Raises:
        ValueError: its `encode` lets no gradient through.
    """
    used = _used(encoder)
    layers: list[Group] = []
    for module in encoder.modules():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter in used]
        if own:
            if any(parameter.ndim > 1 for parameter in own) or not layers:
                layers.append(Group([], []))
            layers[-1].modules.append(module)
            layers[-1].parameters.extend(own)
            used -= set(own)  # shared by two modules, it is the first one's
    count = min(num_groups, len(layers))
    parts = np.array_split(np.arange(len(layers)), count) if count else []
    return [
        Group([m for k in part for m in layers[k].modules], [p for k in part for p in layers[k].parameters])
        for part in parts
    ]


def _used(encoder: Method) -> set[nn.Parameter]:
    """Parameters that features depend on."""
    assert isinstance(encoder, Encodes)
    spec, parameters = encoder.spec, list(encoder.eval().requires_grad_(True).parameters())
    device = parameters[0].device if parameters else torch.device("cpu")
    features = encoder.encode(torch.full((2, spec.channels, spec.height, spec.width), 0.5, device=device))
    if not parameters:
        return set()
    if not features.requires_grad:
        raise ValueError(f"finetune: {type(encoder).__name__}.encode lets no gradient through; probe it by 'linear'")
    gradients: Sequence[Tensor | None] = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    return {parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _recall(network: Any, _: Any) -> None:
    """Read how far the run was from what was loaded."""
    network.done = float(network.progress)
