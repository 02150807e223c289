"""The closed table of activations: torch's own, and those that torch lacks."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mlml.config import ActivationConfig


class Step(nn.Module):
    """Heaviside's step: 1 where the input is at least 0, else 0 (Rosenblatt 1958). Its gradient is 0 everywhere."""

    def forward(self, inputs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Apply it to every element."""
        return (inputs >= 0).to(inputs.dtype)


class Swish(nn.Module):
    """x sigmoid(beta x) (Ramachandran et al. 2017, arXiv:1710.05941, section 3); at beta = 1 it is `nn.SiLU`.

    Args:
        beta: between the identity's half (0) and ReLU (infinity).
        trainable: learn it, one for the layer.
    """

    beta: Tensor

    def __init__(self, beta: float = 1.0, trainable: bool = False) -> None:
        super().__init__()
        if trainable:
            self.beta = nn.Parameter(torch.tensor(beta))
        else:
            self.register_buffer("beta", torch.tensor(beta), persistent=False)

    def forward(self, inputs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Apply it to every element."""
        return inputs * torch.sigmoid(self.beta * inputs)


ACTIVATIONS: dict[str, Callable[[Any], nn.Module]] = {
    "none": lambda config: nn.Identity(),
    "step": lambda config: Step(),
    "sigmoid": lambda config: nn.Sigmoid(),
    "tanh": lambda config: nn.Tanh(),
    "relu": lambda config: nn.ReLU(),
    "softmax": lambda config: nn.Softmax(dim=1),
    "leaky_relu": lambda config: nn.LeakyReLU(config.negative_slope),
    "prelu": lambda config: nn.PReLU(init=config.initial_slope),
    "elu": lambda config: nn.ELU(config.alpha),
    "gelu": lambda config: nn.GELU(config.approximate),
    "swish": lambda config: Swish(config.beta, config.trainable),
}
"""Name in the declaration -> how it is made of its config."""


def build(config: ActivationConfig) -> nn.Module:
    """Construct the declared activation; of channels or features at dimension 1, which softmax sums over."""
    return ACTIVATIONS[config.name](config)
