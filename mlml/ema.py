"""Exponential moving average of weights (Tarvainen & Valpola 2017, arXiv:1703.01780)."""

import torch
from torch import nn


@torch.no_grad()
def ema_update(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the parameters of `average` towards those of `model`, and copy the buffers.

    Parameters become decay * average + (1 - decay) * model (section 2 of the paper). Buffers, such as the running
    statistics of batch norm, are averages already, or counts.

    Args:
        average: a copy of `model` that was made before training.
        model: the trained one; is not changed.
        decay: in [0, 1].

    Raises:
        ValueError: the decay is out of range, or the two modules have different parameters or buffers.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"ema: the decay must be in [0, 1]; got {decay}")
    targets, sources = dict(average.named_parameters()), dict(model.named_parameters())
    old_buffers, new_buffers = dict(average.named_buffers()), dict(model.named_buffers())
    differing = sorted((targets.keys() ^ sources.keys()) | (old_buffers.keys() ^ new_buffers.keys()))
    if differing:
        raise ValueError(f"ema: the average must be a copy of the model; it differs in {', '.join(differing)}")
    if targets:
        torch._foreach_lerp_(list(targets.values()), [sources[name] for name in targets], 1 - decay)
    if old_buffers:
        torch._foreach_copy_(list(old_buffers.values()), [new_buffers[name] for name in old_buffers])
