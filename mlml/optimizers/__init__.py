"""The closed table of optimizers, and how a declared one is built: torch's own, and those that torch lacks."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from mlml.config import AdamConfig, AdamWConfig, LARSConfig, SGDConfig
from mlml.optimizers.lars import LARS

OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "lars": LARS}
"""Name in the declaration -> class."""

FUSED_DEVICES = {"cpu", "cuda"}
"""Devices on which torch's optimizers have one kernel for the whole update."""


def build(
    config: SGDConfig | AdamConfig | AdamWConfig | LARSConfig,
    parameters: Iterable[nn.Parameter],
    decay_norm_and_bias: bool,
) -> Optimizer:
    """Construct the declared optimizer over `parameters`, which must lie on their device already.

    Weights (two dimensions or more) are the first group. Scales and biases, that is parameters of at most one
    dimension, are the second: they get no weight decay and, under LARS, no rate of their own, unless
    `decay_norm_and_bias`. A group that would be empty is left out.

    Args:
        config: which one, and its numbers.
        parameters: what it updates.
        decay_norm_and_bias: treat scales and biases as weights.

    Raises:
        ValueError: no parameters.
    """
    owned = list(parameters)
    if not owned:
        raise ValueError(f"optimizer {config.name!r}: must be given parameters; got none")
    vectors: dict[str, Any] = {} if decay_norm_and_bias else {"weight_decay": 0.0}
    if isinstance(config, LARSConfig) and not decay_norm_and_bias:
        vectors["adapt"] = False
    groups = [
        {"params": [parameter for parameter in owned if parameter.ndim > 1]},
        {"params": [parameter for parameter in owned if parameter.ndim <= 1], **vectors},
    ]
    arguments = _arguments(config)
    if not isinstance(config, LARSConfig):
        arguments["fused"] = all(_has_fused(parameter) for parameter in owned)
    return OPTIMIZERS[config.name]([group for group in groups if group["params"]], **arguments)


def _arguments(config: SGDConfig | AdamConfig | AdamWConfig | LARSConfig) -> dict[str, Any]:
    """Arguments of the class, in torch's names."""
    arguments = config.model_dump(exclude={"name", "learning_rate", "beta1", "beta2"})
    arguments["lr"] = config.learning_rate
    if isinstance(config, AdamConfig | AdamWConfig):
        arguments["betas"] = (config.beta1, config.beta2)
    return arguments


def _has_fused(parameter: nn.Parameter) -> bool:
    return parameter.device.type in FUSED_DEVICES and parameter.is_floating_point()
