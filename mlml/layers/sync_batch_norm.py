"""Batch norm over the batches of all ranks, so that several processes compute what one would."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mlml import distributed


class SyncBatchNorm(_BatchNorm):
    """Batch norm (Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 1) by the statistics of the global batch.

    For processors, where torch's own `SyncBatchNorm` does not compute; on GPUs that one is taken. Every rank must
    hold as many values. In eval mode, and in a single process, it is plain batch norm. Means and variances of the
    ranks are merged by the formula of Chan et al. 1979, which loses no digits as a difference of sums of squares
    does.
    """

    def _check_input_dim(self, values: Tensor) -> None:
        """Any number of dimensions from two."""

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """Normalise each channel."""
        if not (self.training and distributed.is_distributed()):
            normalised: Tensor = super().forward(x)
            return normalised
        others = [dim for dim in range(x.ndim) if dim != 1]
        values = x.float()
        own_variance, own_mean = torch.var_mean(values, others, correction=0)  # (c,)
        statistics = distributed.gather(torch.stack([own_mean, own_variance])[None])  # (ranks, 2, c)
        means, variances = statistics.unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        self._remember(mean.detach(), variance.detach(), distributed.total(values.numel() // values.shape[1]))
        shape = [1, -1, *[1] * (x.ndim - 2)]
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        output = (values - mean.view(shape)) * scale.view(shape)
        if self.affine:
            output = output + self.bias.view(shape)
        return output.to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), momentum)


def synchronise(module: nn.Module, device: torch.device) -> None:
    """Replace every batch norm inside `module` by one over all ranks, of the same parameters and buffers.

    On a GPU it is torch's own.
    """
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            setattr(module, name, _synchronised(child, device))
        else:
            synchronise(child, device)


def _synchronised(norm: _BatchNorm, device: torch.device) -> nn.Module:
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]
        return converted
    new = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(new, name, getattr(norm, name))
    return new.train(norm.training)
