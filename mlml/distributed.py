"""Ranks of one run: who this process is, and collectives that a single process may call too.

Started by torchrun, which sets RANK, WORLD_SIZE and LOCAL_RANK; without it there is one process of rank 0.
"""

import os
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def is_distributed() -> bool:
    """Whether a process group runs."""
    return dist.is_available() and dist.is_initialized()


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
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # the same weights bit for bit after a resume need the same kernels
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
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


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather(local: Float[Tensor, "b d"]) -> Float[Tensor, "n d"]:
    """Concatenate every rank's rows, in rank order; gradients flow back to the rank that the rows came from.

    The gradient is the sum over ranks, so that DDP's mean over ranks leaves the gradient of the whole batch's loss.
    """
    if not is_distributed():
        return local
    gathered: Tensor = _Gather.apply(local)  # type: ignore[no-untyped-call]
    return gathered
