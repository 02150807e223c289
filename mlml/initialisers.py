"""The closed table of initialisers: torch's own, applied to every weight of a network."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from mlml.config import InitialiserConfig

INITIALISERS: dict[str, Callable[[Tensor, Any], object]] = {
    "zero": lambda weight, config: nn.init.zeros_(weight),
    "constant": lambda weight, config: nn.init.constant_(weight, config.value),
    "normal": lambda weight, config: nn.init.normal_(weight, std=config.std),
    "xavier_uniform": lambda weight, config: nn.init.xavier_uniform_(weight),
    "xavier_normal": lambda weight, config: nn.init.xavier_normal_(weight),
    "he_uniform": lambda weight, config: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
    "he_normal": lambda weight, config: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "orthogonal": lambda weight, config: nn.init.orthogonal_(weight, config.gain),
}
"""Name in the declaration -> how it fills a weight, (outputs, inputs, *kernel), in place."""

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
"""Layers that keep their own beginning: scales of 1 and biases of 0."""


def initialise(network: nn.Module, config: InitialiserConfig | None) -> None:
    """Fill every weight of a network as declared, and every bias with 0; None leaves all as it is.

    A weight is a parameter of two dimensions or more with that in its name. Norms, the slopes of activations, and the
    tokens and positions of a transformer keep their values. It draws from torch's global generator, as the construction
    of layers does.
    """
    if config is None:
        return
    fill = INITIALISERS[config.name]
    for module in network.modules():
        if isinstance(module, NORMS):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if "bias" in name:
                nn.init.zeros_(parameter)
            elif "weight" in name and parameter.ndim > 1:
                for matrix in _matrices(module, name, parameter.data):
                    fill(matrix, config)


def _matrices(module: nn.Module, name: str, weight: Tensor) -> Iterable[Tensor]:
    """Yield the maps that torch keeps as one weight, each as (outputs, inputs, *kernel)."""
    if isinstance(module, _ConvTransposeNd):
        yield weight.transpose(0, 1)
    elif isinstance(module, nn.RNNBase):  # of each gate
        yield from torch.split(weight, module.hidden_size)
    elif isinstance(module, nn.MultiheadAttention) and name == "in_proj_weight":  # of queries, keys and values
        yield from weight.chunk(3)
    else:
        yield weight
