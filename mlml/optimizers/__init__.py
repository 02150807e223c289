"""The closed table of optimizers, and how a declared one is built: torch's own, and those that torch lacks."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from mlml.config import AdamConfig, AdamWConfig, LARSConfig, OptimizerConfig
from mlml.optimizers.lars import LARS

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
    "lars": LARS,
}
"""Name in the declaration -> class."""

FUSED_DEVICES = {
    "sgd": {"cpu", "cuda"},
    "adagrad": {"cpu"},
    "adam": {"cpu", "cuda"},
    "adamw": {"cpu", "cuda"},
}
"""Optimizers of torch that have one kernel for the whole update, and the devices where they have it."""

FUSED_CUT = {"adam", "adamw"}
"""Those whose kernel takes parameters that are cut among processes."""

NAMES = {"learning_rate": "lr", "epsilon": "eps", "decay": "alpha"}
"""Our names of arguments, and torch's where they differ."""


def build(
    config: OptimizerConfig,
    parameters: Iterable[nn.Parameter],
    decay_norm_and_bias: bool,
    rate_factors: Mapping[nn.Parameter, float] | None = None,
    cut: bool = False,
) -> Optimizer:
    """Construct the declared optimizer over `parameters`, which must lie on their device already.

    Weights (two dimensions or more) are the first group. Scales and biases, that is parameters of at most one
    dimension, are the second: they get no weight decay and, under LARS, no rate of their own, unless
    `decay_norm_and_bias`. A group that would be empty is left out.

    With rate factors there are such groups for each factor, the largest factor first; a group's `rate_factor` is part
    of the optimizer's state, and `set_rate` heeds it.

    Args:
        config: which one, and its numbers.
        parameters: what it updates.
        decay_norm_and_bias: treat scales and biases as weights.
        rate_factors: > 0, of the learning rate, of parameters that do not have the declared one.
        cut: whether the parameters are those of `mlml.sharding`.

    Raises:
        ValueError: no parameters.
    """
    owned = list(parameters)
    if not owned:
        raise ValueError(f"optimizer {config.name!r}: must be given parameters; got none")
    vectors: dict[str, Any] = {} if decay_norm_and_bias else {"weight_decay": 0.0}
    if isinstance(config, LARSConfig) and not decay_norm_and_bias:
        vectors["adapt"] = False
    factors = [(rate_factors or {}).get(parameter, 1.0) for parameter in owned]
    groups: list[dict[str, Any]] = []
    for factor in sorted(set(factors), reverse=True):
        own = {} if factor == 1.0 else {"lr": config.learning_rate * factor, "rate_factor": factor}
        alike = [parameter for parameter, other in zip(owned, factors, strict=True) if other == factor]
        groups.append({"params": [parameter for parameter in alike if parameter.ndim > 1], **own})
        groups.append({"params": [parameter for parameter in alike if parameter.ndim <= 1], **own, **vectors})
    arguments = _arguments(config)
    if config.name in (FUSED_CUT if cut else FUSED_DEVICES):
        devices = FUSED_DEVICES[config.name]
        arguments["fused"] = all(p.device.type in devices and p.is_floating_point() for p in owned)
    return OPTIMIZERS[config.name]([group for group in groups if group["params"]], **arguments)


def set_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every group, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("rate_factor", 1.0)


def _arguments(config: OptimizerConfig) -> dict[str, Any]:
    """Arguments of the class, in torch's names."""
    declared = config.model_dump(exclude={"name", "beta1", "beta2"})
    arguments = {NAMES.get(name, name): value for name, value in declared.items()}
    if isinstance(config, AdamConfig | AdamWConfig):
        arguments["betas"] = (config.beta1, config.beta2)
    return arguments
