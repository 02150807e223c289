"""Penalties on weights, by their gradients: the loss that is logged stays that of the data."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def add_gradients(parameters: Iterable[nn.Parameter], l1: float, l2: float, vectors: bool) -> None:
    """Add the gradient of l1 sum |w| + l2 / 2 sum w^2 (Zou & Hastie 2005, the elastic net) to those of the parameters.

    Where a weight is 0 its own share of the first is 0. Biases and scales, which have at most one dimension, are left
    out unless `vectors`.
    """
    weights: list[Tensor] = [p for p in parameters if p.grad is not None and (vectors or p.ndim > 1)]
    gradients = [p.grad for p in weights if p.grad is not None]
    if not weights:
        return
    if l1 > 0:
        torch._foreach_add_(gradients, torch._foreach_sign(weights), alpha=l1)
    if l2 > 0:
        torch._foreach_add_(gradients, weights, alpha=l2)
