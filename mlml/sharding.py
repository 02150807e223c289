"""FSDP2: parameters, gradients and optimizer states cut into as many parts as there are processes.

Zhao et al. 2023, arXiv:2304.11277, in torch's second form, where each parameter is a DTensor cut along its first
dimension. Checkpoints and saved models hold whole tensors, so that they do not depend on the number of processes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from mlml import distributed
from mlml.method import Method

CALLED = ("dense", "grids", "tokens", "encode_tokens")
"""What methods call of a network beside `forward`: see `Dense`, `Grids` and `Tokens` of `mlml.models`."""


def shard(model: nn.Module, device: torch.device) -> None:
    """Cut the parameters of `model` in place; a layer's are put together only while it computes.

    Layers of a `ModuleList`, such as a transformer's, and the children of the model and of a base that it stands on are
    gathered one by one.
    """
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    bases = [module for module in model.modules() if isinstance(module, Method) and module is not model]
    of_bases = [layer for base in reversed(bases) for layer in base.children()]
    for layer in [*(layer for layers in lists for layer in layers), *of_bases, *model.children()]:
        if not isinstance(layer, nn.ModuleList) and any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    # cut again also after an evaluation, where no backward pass does it: averages move parameters by their cut parts
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for module in model.modules():
        for name in CALLED:
            if hasattr(module, name):
                register_fsdp_forward_method(module, name)


def whole(state: Any) -> Any:
    """Return nested dicts, lists and tuples with every cut tensor put together; every rank must call it."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(value) for value in state)
    return state


def load(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load whole tensors into a model that may be cut."""
    current = model.state_dict()
    model.load_state_dict({name: _cut(value, current[name]) for name, value in state.items()})


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer of whole tensors into one whose parameters may be cut."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    by_number = dict(zip(numbers, parameters, strict=True))
    cut = {
        number: {name: _cut(value, by_number[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": cut})


def _cut(value: Any, like: Tensor) -> Any:
    """Cut a whole tensor as `like` is cut, if it is; what is no tensor of that shape, such as a count, passes."""
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value
