"""What a training step does to each layer, measured on the device, without a wait and without a random draw.

A *layer* is a module that owns weights, parameters of two dimensions or more: a linear map, a convolution, a recurrent
layer or an attention as a whole, the tokens of a transformer. Biases, norms and slopes are left out. A *unit* is an
output feature, a channel of a convolution. Names are module paths.

layer/<module>/gradient_norm      Euclidean norm of the gradient of its weights, before clipping
layer/<module>/update_ratio       norm of what the step adds to its weights, over the norm of the weights before
layer/<module>/symmetric          share of units whose weights are another unit's, by 0 (none) to 1 (all are the same)
layer/<module>/activation_norm    root mean square of its outputs
layer/<module>/dead               of a ReLU: share of units that are 0 for the whole batch
layer/<module>/saturated          of a sigmoid, tanh, step or softmax: share of outputs at their bounds

Outputs are those of the first batch of a step; a layer that is called several times counts with the mean, and so do
several ranks, each with its part of the batch.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

from mlml import distributed
from mlml.activations import Step
from mlml.diagnostics import LAYER

AT_BOUND = 0.01
"""An output is saturated this near to a bound, as a share of the way from bound to bound."""

SAME = 1e-4
"""Two units are the same when their weights, projected to one number, differ by less than this share of a weight."""

BOUNDS: dict[type[nn.Module], tuple[float, float]] = {
    nn.Sigmoid: (0.0, 1.0),
    nn.Tanh: (-1.0, 1.0),
    Step: (0.0, 1.0),
}
"""Activations whose every output has bounds, where their gradient vanishes."""

RECTIFIERS = (nn.ReLU, nn.ReLU6)
"""Activations that can be 0 for every input of a batch, and then have no gradient."""


@dataclass(frozen=True)
class _Layer:
    name: str
    module: nn.Module
    weights: tuple[nn.Parameter, ...]


class LayerMeasures:
    """Measures one phase of a step: its forward pass, its gradients, its update.

    From the first diagnosed step on it keeps room for a copy of the weights: to ask for it anew takes longer than to
    copy.

    Args:
        method: whose layers are measured.
        parameters: those that the phase updates; layers of others are left out.
    """

    def __init__(self, method: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
        owned = {id(parameter) for parameter in parameters}
        self.layers = list(_layers(method, owned))
        parts = {layer.name.split(".")[0] for layer in self.layers}
        inner = _inside_attention(method)
        self.watched = [(layer.name, layer.module) for layer in self.layers if _has_output(layer.module)]
        self.watched += [
            (name, module)
            for name, module in method.named_modules()
            if _is_activation(module) and name.split(".")[0] in parts and name not in inner
        ]
        self.values: dict[str, list[Tensor]] = {}
        self.sizes: dict[str, Tensor] = {}  # norm of the weights before the step, by layer
        self.copies: dict[str, list[Tensor]] = {}  # of the weights before the step

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measure the outputs of the forward pass in the body; a compiled network runs uncompiled in it."""
        self.values, self.sizes = {}, {}
        handles = [self._watch(name, module) for name, module in self.watched]
        # a compiled graph would not call hooks that it was compiled without; who has compiled has imported dynamo
        compiled = "torch._dynamo" in sys.modules
        try:
            with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def before_update(self) -> None:
        """Measure gradients and weights: when the gradients are complete and unscaled, before they are clipped."""
        with torch.no_grad():
            for layer in self.layers:
                if any(weight.grad is None for weight in layer.weights):
                    continue
                gradients = [weight.grad for weight in layer.weights if weight.grad is not None]
                self._add(layer.name, "gradient_norm", norm(gradients))
                if layer.name not in self.copies:
                    self.copies[layer.name] = [torch.empty_like(weight) for weight in layer.weights]
                torch._foreach_copy_(self.copies[layer.name], list(layer.weights))
                self.sizes[layer.name] = norm(layer.weights)
                rows = _units(layer.module, layer.weights[0])
                if rows is not None:
                    self._add(layer.name, "symmetric", symmetric(rows))

    def after_update(self) -> dict[str, Tensor]:
        """Measure what the optimizer did; returns every measure of the step, scalars by their full name."""
        with torch.no_grad():
            for layer in self.layers:
                if layer.name in self.sizes:
                    size, old = self.sizes[layer.name], self.copies[layer.name]
                    torch._foreach_sub_(old, list(layer.weights))
                    moved = norm(old)
                    # of a layer that begins at 0: 1 when it has moved, else 0
                    ratio = torch.where(size > 0, moved / size, (moved > 0).to(moved.dtype))
                    self._add(layer.name, "update_ratio", ratio)
        means = {
            name: values[0] if len(values) == 1 else torch.stack(values).mean() for name, values in self.values.items()
        }
        self.values, self.sizes = {}, {}
        return means

    def _add(self, layer: str, measure: str, value: Tensor) -> None:
        self.values.setdefault(f"{LAYER}{layer}/{measure}", []).append(value)

    def _watch(self, name: str, module: nn.Module) -> RemovableHandle:
        """Measure every output of a module until the handle is removed."""
        kind = type(module)

        def measure(_: nn.Module, __: Any, output: Any) -> None:
            values = output[0] if isinstance(output, tuple) else output
            if not isinstance(values, Tensor) or not torch.is_grad_enabled():
                return  # a teacher's pass without gradients
            values = values.detach()
            if isinstance(module, RECTIFIERS):
                self._add(name, "dead", dead(values))
            elif isinstance(module, nn.Softmax):
                self._add(name, "saturated", decided(values, module.dim))
            elif kind in BOUNDS:
                self._add(name, "saturated", saturated(values, *BOUNDS[kind]))
            else:
                self._add(name, "activation_norm", root_mean_square(values))
                if isinstance(module, nn.RNN):  # LSTM and GRU do not show the gates that could saturate
                    state = dead(values) if module.nonlinearity == "relu" else saturated(values, -1.0, 1.0)
                    self._add(name, "dead" if module.nonlinearity == "relu" else "saturated", state)

        return module.register_forward_hook(measure)


class Pending:
    """Measures of the steps since the last log, on the device until they are read.

    Attributes:
        steps: (optimizer steps done, names, values) of each diagnosed step; plain values and tensors, as a checkpoint
            takes them.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[int, list[str], Float[Tensor, " names"]]] = []

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Keep the scalars of a step, their means over ranks."""
        if values:
            stacked = torch.stack([value.detach().float() for value in values.values()])
            self.steps.append((step, list(values), distributed.mean(stacked)))

    def take(self) -> list[tuple[int, dict[str, float]]]:
        """Read what is kept, (step, value by name), and forget it; here a GPU is waited for."""
        read = [(step, dict(zip(names, values.tolist(), strict=True))) for step, names, values in self.steps]
        self.steps = []
        return read


def norm(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Euclidean norm of all the tensors as one vector, in float32."""
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float32) for tensor in tensors]
    total: Tensor = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    return total


def root_mean_square(values: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Root of the mean square, in float32."""
    root: Tensor = torch.linalg.vector_norm(values, dtype=torch.float32) / max(values.numel(), 1) ** 0.5
    return root


def dead(values: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Share of units that are never above 0: of channels for images (b, c, h, w), else of the last dimension."""
    units = 1 if values.ndim >= 4 else values.ndim - 1
    highest = values.amax([d for d in range(values.ndim) if d != units])  # (units,)
    return (highest <= 0).float().mean()


def saturated(values: Float[Tensor, "*shape"], low: float, high: float) -> Float[Tensor, ""]:
    """Share of outputs within 1 % of a bound, as a share of the way from bound to bound."""
    middle, reach = (low + high) / 2, (0.5 - AT_BOUND) * (high - low)
    return ((values - middle).abs() > reach).float().mean()


def decided(values: Float[Tensor, "*shape"], dim: int | None) -> Float[Tensor, ""]:
    """Share of a softmax's distributions that give one entry more than 99 %; the others are then all at their bound."""
    return (values.amax(-1 if dim is None else dim) > 1 - AT_BOUND).float().mean()


def symmetric(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """How many units are copies of others: (n - number of different rows) / (n - 1).

    Rows are told apart by one fixed projection, so that n log n comparisons do. Rows that differ at random meet by
    chance in about n * `SAME` / 4 of the pairs.
    """
    n, d = rows.shape
    rows = rows.float()
    projected = (rows @ _direction(d, rows.device)).sort().values  # (n,)
    weight = torch.linalg.vector_norm(rows) / (n * d) ** 0.5
    equal: Tensor = projected.diff() <= SAME * weight
    return equal.float().mean()


@lru_cache(maxsize=64)
def _direction(d: int, device: torch.device) -> Float[Tensor, " d"]:
    """A fixed vector of norm 1, nearly: evenly spread numbers, by the golden ratio, of mean 0."""
    places = (torch.arange(1, d + 1, device=device) * 0.6180339887498949).frac()
    direction: Tensor = (places - 0.5) * (12 / d) ** 0.5
    return direction


def _layers(method: nn.Module, owned: set[int]) -> Iterator[_Layer]:
    """Every layer of which all weights are owned, in the order of registration, which is mostly that of the pass."""
    inner = _inside_attention(method)
    for name, module in method.named_modules():
        if name in inner:
            continue
        whole = isinstance(module, nn.MultiheadAttention)
        weights = [weight for weight in module.parameters(recurse=whole) if weight.ndim > 1]
        if weights and all(id(weight) in owned for weight in weights):
            yield _Layer(name or type(method).__name__, module, tuple(weights))


def _inside_attention(method: nn.Module) -> set[str]:
    """Names of the modules that an attention holds: it uses their weights without calling them."""
    return {
        f"{name}.{inner}"
        for name, module in method.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        for inner, _ in module.named_modules()
        if inner
    }


def _has_output(module: nn.Module) -> bool:
    """Whether the module's output is the layer's own, and not that of a network that also owns tokens."""
    return isinstance(module, nn.MultiheadAttention) or not any(True for _ in module.children())


def _is_activation(module: nn.Module) -> bool:
    return isinstance(module, (*RECTIFIERS, nn.Softmax)) or type(module) in BOUNDS


def _units(module: nn.Module, weight: Tensor) -> Float[Tensor, "n d"] | None:
    """The weights of each unit as a row; None where rows of equal weights are no equal units."""
    if isinstance(module, _ConvNd):
        if module.groups > 1:  # units of other groups read other inputs
            return None
        weight = weight.transpose(0, 1) if isinstance(module, _ConvTransposeNd) else weight
    elif not isinstance(module, nn.Linear | nn.RNNBase | nn.MultiheadAttention):
        return None
    return weight.flatten(1) if len(weight) > 1 else None
