"""MoCo v1 and v2 (He et al. 2020, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297).

Notation: q (n, d) are queries, k (n, d) their positive keys, `queue` (K, d) earlier keys, the negatives; all of norm 1.
Query and key of an image come from two views of it, q from the trained networks, k from their momentum averages.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mlml import distributed, models
from mlml.config import AugmentConfig, BelowOne, Declared, EncoderConfig, TrainConfig
from mlml.data.augment import simclr_views
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.layers.heads import projection_head
from mlml.method import Method, Output
from mlml.teacher import teacher_of, teacher_update

QUEUE_SIZE, QUEUE_SHARE = 65536, 20
"""Keys in the paper's queue."""


class Views(NamedTuple):
    """Two views of each image of a batch, and the order in which keys are computed."""

    queries: Float[Tensor, "b c h w"]
    keys: Float[Tensor, "b c h w"]
    order: Int[Tensor, " n"]  # a permutation of the images of all ranks


def info_nce_logits(
    q: Float[Tensor, "n d"], k: Float[Tensor, "n d"], queue: Float[Tensor, "K d"], temperature: float
) -> Float[Tensor, "n 1+K"]:
    """Similarity over temperature of each query to its own key, in column 0, and to those of the queue; in float32."""
    with torch.autocast(q.device.type, enabled=False):  # it would shorten the products
        q, k, queue = q.float(), k.float(), queue.float()
        return torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / temperature


def info_nce(
    q: Float[Tensor, "n d"], k: Float[Tensor, "n d"], queue: Float[Tensor, "K d"], temperature: float
) -> Float[Tensor, ""]:
    """Cross entropy of telling a query's own key from those of the queue; He et al. 2020, Eq. 1.

    Args:
        q: queries, of norm 1.
        k: keys of the same images, of norm 1.
        queue: keys of other images, of norm 1.
        temperature: divides the cosine similarity; > 0, dimensionless.

    Returns:
        Mean loss over queries, in nats.

    Raises:
        ValueError: temperature <= 0.
    """
    if temperature <= 0:
        raise ValueError(f"info_nce: temperature must be > 0; got {temperature}")
    return _cross_entropy(info_nce_logits(q, k, queue, temperature))


def _cross_entropy(logits: Float[Tensor, "n 1+K"]) -> Float[Tensor, ""]:
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))  # Eq. 1


class MoCo(Method):
    """A query is to be told from a queue of earlier keys by the key of the same image, which a momentum encoder makes.

    The defaults are those of v2. v1 is `head: linear`, `temperature: 0.07` and `augment: {crop_scale: [0.2, 1.0],
    jitter_prob: 1.0, brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.4, blur_prob: 0.0}`; its code makes
    images grey before it jitters them, here it is after.

    Shuffled batch norm (He et al. 2020, section 3.3): were q and k normalised by the statistics of the same images, the
    networks could tell pairs by them. The paper's GPUs each normalise a part of the batch, and keys are shuffled over
    GPUs. Here batch norm is synchronised, since the number of processes must not change the result, and over the whole
    batch a shuffle would change nothing. So the batch is cut into `norm_groups`, as many as the paper has GPUs, each
    normalised by statistics of its own, over all ranks: image i is in group i mod `norm_groups` as a query, and as a
    key in that of its place in an order drawn anew for each batch. Networks without batch norm need none of this, nor
    does eval mode, which uses running statistics; they compute each batch in one pass.

    The keys of a batch enter the queue, a ring, once its loss is computed; of a batch that is larger than the queue the
    last. In eval mode the queue stays as it is.
    """

    measures = ("accuracy",)
    loss_falls = False  # the queue fills with real keys, which are harder to tell apart than those that it begins with

    class Config(Declared):
        """Numbers of MoCo.

        Attributes:
            temperature: 0.2 in v2, 0.07 in v1.
            momentum: of the average of the encoder that makes the keys, per step.
            queue_size: number of negatives; null: the paper's 65536, or a twentieth of the train split, the paper's
                share of ImageNet, where that is less. A longer queue often holds an old key of the very image.
            norm_groups: parts of a batch with statistics of their own, where the networks have batch norm.
            head: "mlp" in v2, whose hidden layer is as wide as the features; "linear" in v1.
        """

        encoder: EncoderConfig
        train: TrainConfig
        temperature: PositiveFloat = 0.2
        momentum: BelowOne = 0.999
        queue_size: PositiveInt | None = None
        norm_groups: PositiveInt = 8
        head: Literal["linear", "mlp"] = "mlp"
        projection_dim: PositiveInt = 128
        augment: AugmentConfig = AugmentConfig(
            crop_scale=(0.2, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
        )

    config: Config
    queue: Tensor
    place: Tensor

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = width = self.encoder.feature_dim
        hidden = (width,) if config.head == "mlp" else ()
        self.projector = projection_head((width, *hidden, config.projection_dim), norm=False)
        self.key_encoder, self.key_projector = teacher_of(self.encoder), teacher_of(self.projector)
        size = config.queue_size or max(1, min(QUEUE_SIZE, spec.sizes.get("train", QUEUE_SIZE) // QUEUE_SHARE))
        self.register_buffer("queue", F.normalize(torch.randn(size, config.projection_dim), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))  # where the next key enters

    def augment(self, batch: Batch, generator: torch.Generator) -> Views:
        queries, keys = simclr_views(batch.images, self.config.augment, generator)
        count = distributed.total(len(queries))
        return Views(queries, keys, torch.randperm(count, generator=generator, device=generator.device))

    def phase_parameters(self, phase: str) -> Iterable[nn.Parameter]:
        return (*self.encoder.parameters(), *self.projector.parameters())

    def forward(self, batch: Views, phase: str) -> Output:
        q = F.normalize(self._in_groups(self.encoder, self.projector, batch.queries).float(), dim=1)
        k = self._keys(batch.keys, batch.order)
        # the backward pass must read the queue as it is now
        logits = info_nce_logits(q, k, self.queue.clone(), self.config.temperature)  # (b, 1 + K)
        if self.training:
            self._enqueue(distributed.gather(k))
        return Output(_cross_entropy(logits), {"accuracy": (logits.argmax(1) == 0).float().mean()})

    def after_step(self, progress: float) -> None:
        teacher_update(self.key_encoder, self.encoder, self.config.momentum)  # Eq. 2
        teacher_update(self.key_projector, self.projector, self.config.momentum)

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]: the encoder's, before the projector."""
        features: Tensor = self.encoder(images)
        return features

    @torch.no_grad()
    def _keys(self, images: Float[Tensor, "b c h w"], order: Int[Tensor, " n"]) -> Float[Tensor, "b d"]:
        """Keys of this rank's images, each computed on the rank and in the group where `order` puts it."""
        grouped = self._num_groups() > 1
        if grouped:
            images = distributed.share(distributed.gather(images)[order])
        k = F.normalize(self._in_groups(self.key_encoder, self.key_projector, images).float(), dim=1)
        return distributed.share(distributed.gather(k)[order.argsort()]) if grouped else k

    def _num_groups(self) -> int:
        """Groups of a batch that are computed apart."""
        normed = any(isinstance(module, _BatchNorm) for module in self.encoder.modules())
        return self.config.norm_groups if self.training and normed else 1

    def _in_groups(self, encoder: nn.Module, projector: nn.Module, images: Tensor) -> Float[Tensor, "b d"]:
        """Projections of images, every `norm_groups`-th of which are normalised together."""
        groups, b = self._num_groups(), len(images)
        if groups > 1 and (b % groups or distributed.total(b) // groups < 2):
            raise ValueError(
                f"moco: norm_groups must divide the images of a process, {b}, into groups of at least 2 images over "
                f"all processes; got {groups}; change it or train.batch_size, or take an encoder without batch norm"
            )
        parts = [projector(encoder(images[group::groups])) for group in range(groups)]
        return torch.stack(parts, 1).flatten(0, 1)  # (b / groups, groups, d) -> (b, d)

    def _enqueue(self, keys: Float[Tensor, "n d"]) -> None:
        size = len(self.queue)
        keys = keys[-size:]
        places = (self.place + torch.arange(len(keys), device=keys.device)) % size
        self.queue[places] = keys
        self.place.copy_((self.place + len(keys)) % size)
