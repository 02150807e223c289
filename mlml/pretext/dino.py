"""DINO: self-distillation with no labels (Caron et al. 2021, arXiv:2104.14294).

Notation: v crops of each image go to the student, of which the first g, the global ones, go to the teacher too; k
prototypes; m is the momentum of the centre.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from mlml import distributed, models
from mlml.config import BelowOne, Declared, EncoderConfig, MultiCropConfig, Probability, TrainConfig
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.data.multicrop import Crops, multi_crop
from mlml.layers.prototypes import Prototypes, dino_head
from mlml.method import Method, Output
from mlml.teacher import cosine_momentum, teacher_of, teacher_update


def dino_loss(
    student: Float[Tensor, "b v k"],
    teacher: Float[Tensor, "b g k"],
    center: Float[Tensor, " k"],
    student_temperature: float,
    teacher_temperature: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Cross entropy of the student's prototypes under the teacher's, over all pairs of different crops of an image.

    Caron et al. 2021, Eq. 1 to 3 and Algorithm 1. The teacher is centred and sharpened, and gets no gradient.

    Args:
        student: logits of every crop, the global ones first.
        teacher: logits of the global crops.
        center: C, subtracted from the teacher's logits.
        student_temperature: tau_s > 0.
        teacher_temperature: tau_t > 0.

    Returns:
        Mean over images and pairs, in nats, as in the authors' code; Eq. 3 is the sum over pairs.

    Raises:
        ValueError: fewer crops for the student than for the teacher, or a single crop.
    """
    v, g = student.shape[1], teacher.shape[1]
    if v < max(g, 2):
        raise ValueError(
            f"dino_loss: the student must see 2 crops or more, and all of the teacher's; got {v} and {g}; add crops"
        )
    target = ((teacher.detach().float() - center) / teacher_temperature).softmax(2)  # (b, g, k)
    log_probability = (student.float() / student_temperature).log_softmax(2)  # (b, v, k)
    # no product of matrices, which autocast would compute with half the digits
    others = log_probability.sum(1, keepdim=True) - log_probability[:, :g]  # (b, g, k)
    return -(target * others).sum() / (len(student) * (g * v - g))


def warmed_up(first: float, last: float, warmup: float, progress: float) -> float:
    """From `first` to `last` on a straight line over the fraction `warmup` of the run, then `last`."""
    return last if progress >= warmup else first + (last - first) * progress / warmup


class DINO(Method):
    """A student learns from small crops what its own moving average, the teacher, says of large crops.

    Encoder and head of the student are g_theta_s of the paper, `teacher` is g_theta_t. The teacher's logits are centred
    by their running mean (Eq. 4) and sharpened by a low temperature, which together keep them from being the same for
    all images. Features are the teacher's, as the paper evaluates them.

    Schedules are functions of the run's progress: the teacher's momentum rises from `momentum` to 1 by half a cosine
    wave; its temperature on a straight line, which the authors climb in steps of an epoch; the prototypes of the head
    are held for the first part of the run. The paper's weight decay, which grows from 0.04 to 0.4, is the loop's and
    stays as it is declared.

    Local crops have the size nearest to that of `crops` which the encoder takes: a `vit` interpolates its positions, a
    `cnn` and a `resnet` take any that they can halve often enough. Local crops for another network, such as an `mlp`,
    are as large as the image: they show as small a part of it, magnified.
    """

    measures = ("teacher_entropy",)
    loss_falls = False  # the centre and the temperature of the teacher move

    class Config(Declared):
        """Numbers of DINO; the defaults are the paper's (section 3.2 and its code), but for the head's widths.

        Attributes:
            hidden_dim: of the head; the paper's is 2048.
            bottleneck_dim: of the sphere on which the head's last layer compares.
            num_prototypes: K; the paper's is 65536 for ImageNet, and its appendix C tells what fewer cost.
            teacher_temperature: after the warm-up.
            teacher_temperature_start: at the beginning of the run.
            teacher_temperature_warmup: fraction of the run; the paper's 30 epochs of 100.
            momentum: of the teacher, at the beginning of the run.
            center_momentum: m.
            frozen_prototypes: fraction of the run for which the head's last layer is held; the paper's first epoch.
        """

        encoder: EncoderConfig
        train: TrainConfig
        hidden_dim: PositiveInt = 512
        bottleneck_dim: PositiveInt = 256
        num_prototypes: PositiveInt = 1024
        student_temperature: PositiveFloat = 0.1
        teacher_temperature: PositiveFloat = 0.07
        teacher_temperature_start: PositiveFloat = 0.04
        teacher_temperature_warmup: Probability = 0.3
        momentum: Probability = 0.996
        center_momentum: BelowOne = 0.9
        frozen_prototypes: BelowOne = 0.01
        crops: MultiCropConfig = MultiCropConfig()

    config: Config
    center: Tensor
    teacher: nn.Sequential
    teacher_temperature: Tensor

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim
        self.head = dino_head(self.feature_dim, config.hidden_dim, config.bottleneck_dim, config.num_prototypes)
        self.teacher = teacher_of(self._student())
        share = config.crops.local_size
        self.local_size = self.encoder.nearest_size(
            (max(1, round(share * spec.height)), max(1, round(share * spec.width)))
        )
        # what a step needs to know of the run so far is in buffers: a resumed run finds it there
        self.register_buffer("center", torch.zeros(config.num_prototypes))
        self.register_buffer("teacher_temperature", torch.zeros(()))
        self._schedule(0.0)

    def _student(self) -> nn.Sequential:
        """What the teacher is an average of."""
        return nn.Sequential(self.encoder, self.head)

    def _schedule(self, progress: float) -> None:
        """Set what the step at `progress` uses."""
        config = self.config
        warmup = (config.teacher_temperature_start, config.teacher_temperature, config.teacher_temperature_warmup)
        self.teacher_temperature.fill_(warmed_up(*warmup, progress))
        _prototypes(self.head).learning.fill_(float(progress >= config.frozen_prototypes))

    def augment(self, batch: Batch, generator: torch.Generator) -> Crops:
        return multi_crop(batch.images, self.config.crops, self.local_size, generator)

    def phase_parameters(self, phase: str) -> Iterable[nn.Parameter]:
        return self._student().parameters()

    def forward(self, batch: Crops, phase: str) -> Output:
        b, wide = len(batch.wide), batch.wide.flatten(0, 1)  # (b g, c, h, w)
        features = [self.encoder(crops).unflatten(0, (b, -1)) for crops in self._sizes(batch)]
        student = self.head(torch.cat(features, 1).flatten(0, 1)).unflatten(0, (b, -1))  # (b, v, k)
        with torch.no_grad():
            teacher = self.teacher(wide).float().unflatten(0, (b, -1))  # (b, g, k)
        temperature = self.teacher_temperature
        loss = dino_loss(student, teacher, self.center, self.config.student_temperature, temperature)
        entropy = torch.special.entr(((teacher - self.center) / temperature).softmax(2)).sum(2).mean()  # in nats
        if self.training:
            self.center.lerp_(distributed.mean(teacher.mean((0, 1))), 1 - self.config.center_momentum)  # Eq. 4
        return Output(loss, {"teacher_entropy": entropy})

    def _sizes(self, batch: Crops) -> Iterable[Tensor]:
        """Crops of one size at a time, as the encoder takes them; none where there are no local ones."""
        return (crops.flatten(0, 1) for crops in batch if crops.shape[1])

    def after_step(self, progress: float) -> None:
        prototypes = _prototypes(self.head)
        with torch.no_grad():
            # A decay of weights moves even what has no gradient. The teacher still holds what the student began with.
            prototypes.weight.lerp_(_prototypes(self.teacher[1]).weight, 1 - prototypes.learning)
        teacher_update(self.teacher, self._student(), cosine_momentum(self.config.momentum, progress))
        self._schedule(progress)

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]: those of the teacher's encoder, before its head."""
        features: Tensor = self.teacher[0](images)
        return features


def _prototypes(head: nn.Module) -> Prototypes:
    """The last layer of a head."""
    assert isinstance(head, nn.Sequential)
    prototypes = head[-1]
    assert isinstance(prototypes, Prototypes)
    return prototypes
