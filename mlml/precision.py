"""The numbers that training computes with, and whether torch compiles the model."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precision in the declaration -> type of the products of matrices; sums, norms and losses stay in float32."""

COMPILED_STEPS = 1000
"""A run of fewer optimizer steps ends before compiling, which takes a minute, has paid."""


class Precision:
    """How the model computes: the type of its products, and in float16 a scaler for each phase.

    Losses are multiplied before the backward pass, so that small gradients do not vanish in float16, and gradients are
    divided again before they are used (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2). A step whose gradients
    overflow is left out, and the factor is halved.
    """

    def __init__(self, name: str, device: torch.device, phases: list[str]) -> None:
        self.name, self.device, self.type = name, device, AUTOCAST.get(name)
        self.scalers = {phase: GradScaler(device.type) for phase in phases} if name == "float16" else {}

    @contextmanager
    def products(self) -> Iterator[None]:
        """Shorten the factors of float32 products on a GPU to 10 bits within the block if it is tf32; else nowhere.

        Torch has it so for convolutions everywhere, unless told otherwise.
        """
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        try:
            _allow_tf32(self.name == "tf32")
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

    def autocast(self) -> AbstractContextManager[object]:
        """The forward pass runs within it."""
        # torch's own, switched off, would still cost a small perceptron 2 % of its step
        return nullcontext() if self.type is None else torch.autocast(self.device.type, self.type)

    def backward(self, loss: Tensor, phase: str) -> None:
        """Compute gradients, in float16 those of the scaled loss."""
        scaler = self.scalers.get(phase)
        (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: Optimizer, phase: str) -> None:
        """Make gradients those of the loss again, before anything reads them."""
        if phase in self.scalers:
            self.scalers[phase].unscale_(optimizer)

    def step(self, optimizer: Optimizer, phase: str) -> None:
        """Update the parameters, unless gradients in float16 are not finite."""
        if phase in self.scalers:
            self.scalers[phase].step(optimizer)
            self.scalers[phase].update()
        else:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """State of the scalers, by phase."""
        return {phase: scaler.state_dict() for phase, scaler in self.scalers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the state of the scalers."""
        for phase, scaler in self.scalers.items():
            scaler.load_state_dict(state[phase])


def exact_products() -> None:
    """Compute float32 products in full on a GPU, from now on; only training with tf32 does not."""
    _allow_tf32(False)


def _allow_tf32(allowed: bool) -> None:
    # not by `fp32_precision`, whose mixture with these, which the compiler reads, torch refuses
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def compiled(model: nn.Module, choice: str, device: torch.device, steps: int) -> Callable[..., Any]:
    """Return the model as `train.compile` asks for it.

    Args:
        model: is not changed; weights and their names stay its own.
        choice: "on", "off", or "auto": where it pays, on a GPU and in runs of many steps.
        device: of the model.
        steps: of the run.
    """
    if choice == "off" or (choice == "auto" and (device.type != "cuda" or steps < COMPILED_STEPS)):
        return model
    made: Callable[..., Any] = torch.compile(model, dynamic=False)
    return made
