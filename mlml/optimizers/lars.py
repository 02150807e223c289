"""LARS, layer-wise adaptive rate scaling (You et al. 2017, arXiv:1708.03888).

Notation (theirs -> ours), for one layer, here one parameter tensor:
    w    parameter           m  momentum            gamma   lr, the global rate of this step
    g    gradient            beta  weight_decay     eta     trust_coefficient
    v    momentum_buffer     lambda  trust, the layer's own rate
"""

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class LARS(Optimizer):
    """Stochastic gradient descent whose step in each layer is in proportion to the norm of the layer's weights.

    Algorithm 1 of the paper, with the trust coefficient eta of its definition of the local rate:

        lambda = eta |w| / (|g| + beta |w|)
        v      = m v + gamma lambda (g + beta w)
        w      = w - v

    The rate gamma stands inside the momentum, unlike in `torch.optim.SGD`: a later change of it leaves earlier steps as
    they were. The paper does not say what lambda is where |w| or |g| is 0. It is 1 here, as in SimCLR's code; else a
    layer that starts at zero would stay there.

    Args:
        params: parameters, or groups of them. A group with `adapt` False has lambda = 1.
        lr: gamma; > 0.
        momentum: m; in [0, 1).
        weight_decay: beta; >= 0.
        trust_coefficient: eta; > 0.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 1e-3,
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; `closure` computes the loss anew, with its gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        velocities = []
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            velocities.append(self.state[weight]["momentum_buffer"])
        steps = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])  # g + beta w
        if group["adapt"]:
            torch._foreach_mul_(steps, _trust(weights, gradients, group["weight_decay"], group["trust_coefficient"]))
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, steps, alpha=group["lr"])
        torch._foreach_sub_(weights, velocities)


def _trust(weights: list[Tensor], gradients: list[Tensor], decay: float, coefficient: float) -> list[Tensor]:
    """The rate lambda of each layer, on the device: reading the norms would make a GPU wait."""
    w = torch.stack(torch._foreach_norm(weights))  # (layers,)
    g = torch.stack(torch._foreach_norm(gradients))  # (layers,)
    trust = torch.where((w > 0) & (g > 0), coefficient * w / (g + decay * w), 1.0)
    return list(trust.unbind())
