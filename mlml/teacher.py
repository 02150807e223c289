"""A teacher: a copy of networks that learns by a moving average of the student's weights, and not by gradients.

Notation: tau in [0, 1] is the momentum, the share of the teacher that stays in a step.
"""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def teacher_of(student: M) -> M:
    """Return a copy of `student` that gets no gradients and drops nothing out.

    It keeps its own buffers: the running statistics of its batch norms are of what it has seen itself.
    """
    teacher = copy.deepcopy(student).requires_grad_(False)
    for module in teacher.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0
    return teacher


@torch.no_grad()
def teacher_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the parameters of the teacher towards those of the student: tau * teacher + (1 - tau) * student.

    Grill et al. 2020 (BYOL), Eq. 1, arXiv:2006.07733; Caron et al. 2021 (DINO), section 3.1, arXiv:2104.14294.

    Args:
        teacher: of `teacher_of`.
        student: is not changed.
        momentum: tau.

    Raises:
        ValueError: a momentum out of [0, 1], or networks that are not alike.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"teacher_update: momentum must be in [0, 1]; got {momentum}")
    targets: list[Tensor] = list(teacher.parameters())
    sources: list[Tensor] = list(student.parameters())
    if [target.shape for target in targets] != [source.shape for source in sources]:
        raise ValueError(
            "teacher_update: the teacher must be a copy of the student; "
            f"their {len(targets)} and {len(sources)} parameters differ in number or shape"
        )
    torch._foreach_lerp_(targets, sources, 1 - momentum)


def cosine_momentum(first: float, progress: float) -> float:
    """Momentum of an update: from `first` up to 1 by half a cosine wave.

    Grill et al. 2020, section 3.3: tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2, where k / K is our `progress`.
    """
    return 1 - (1 - first) * (math.cos(math.pi * progress) + 1) / 2
