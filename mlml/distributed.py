"""Ranks of one run: who this process is, and collectives that a single process may call too.

Started by torchrun, which sets RANK, WORLD_SIZE and LOCAL_RANK; without it there is one process of rank 0.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from mlml import heap, precision

_alone = False
"""Whether this rank works for itself at the moment."""


def is_distributed() -> bool:
    """Whether this process works with others."""
    return not _alone and dist.is_available() and dist.is_initialized()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Work as a single process within the block, for what each rank does with data of its own, such as evaluation."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def rank() -> int:
    """Number of this process; 0 is the one that writes."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if is_distributed() else 1


def start() -> torch.device:
    """Join the process group that torchrun describes, if it does, and return this process's device."""
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu":
        heap.keep_freed()
    else:
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"train.processes: must be at most the number of GPUs of this machine, {torch.cuda.device_count()}; "
                f"got process {local_rank + 1} of {os.environ.get('LOCAL_WORLD_SIZE', '?')}"
            )
        torch.cuda.set_device(device)
        # the same weights bit for bit after a resume need the same kernels
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        precision.exact_products()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not is_distributed():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def stop() -> None:
    """Leave the process group, if there is one."""
    if is_distributed():
        dist.destroy_process_group()


def from_rank_zero(value: Any) -> Any:
    """Return rank 0's value on every rank."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def of_every_rank(value: Any) -> list[Any]:
    """Return the value of every rank, in rank order."""
    if not is_distributed():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def mean(local: Tensor) -> Tensor:
    """Mean over ranks, the same on each; not differentiable."""
    if not is_distributed():
        return local
    total = local.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def total(count: int) -> int:
    """Number of rows of the global batch, of which each rank holds `count`."""
    return count * world_size()


def share(drawn: Tensor, dim: int = 0) -> Tensor:
    """Return this rank's rows of what every rank has drawn for the whole global batch.

    So several processes draw what one would have drawn: each image of a batch gets its own numbers, on whichever rank.

    Args:
        drawn: from a generator in the same state on every rank; `total(count)` long in `dim`.
        dim: the dimension of images.
    """
    return drawn if not is_distributed() else drawn.chunk(world_size(), dim)[rank()]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        local = local.contiguous()  # before its likes are made: bytes are sent, not rows and columns
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)  # others may hold the same gradient
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather(local: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "n ..."]:
    """Concatenate every rank's rows, in rank order; gradients flow back to the rank that the rows came from.

    The gradient is the sum over ranks, so that DDP's mean over ranks leaves the gradient of the whole batch's loss.
    """
    if not is_distributed():
        return local
    gathered: Tensor = _Gather.apply(local)  # type: ignore[no-untyped-call]
    return gathered
