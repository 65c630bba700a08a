"""Batch normalisation over the batch of all ranks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import dist


class SyncBatchNorm(nn.Module):
    """Batch normalisation whose statistics, and their gradients, span all ranks.

    N ranks equal one process on the joined batch: in values, gradients and running statistics. On
    one rank, and in evaluation, it is ``F.batch_norm``.

    Not a subclass of torch's: mmengine turns those back into plain BatchNorm where it sees no GPU,
    and ``torch.nn.SyncBatchNorm`` itself refuses CPU tensors.

    Args:
        num_features: channels C of inputs ``[B, C]`` or ``[B, C, H, W]``.
        eps: added to the variance.
        momentum: weight of the new statistics in the running ones.
        affine: whether to learn a scale and a shift.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or dist.world_size() == 1:
            return F.batch_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                self.training,
                self.momentum,
                self.eps,
            )
        mean, var, count = global_moments(x)
        with torch.no_grad():
            unbiased = var * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        shape = [1, -1] + [1] * (x.dim() - 2)
        return torch.addcmul(shift.view(shape), x, scale.view(shape)).to(x.dtype)


def global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the mean ``[C]``, biased variance ``[C]`` and count ``[1]`` over all ranks' ``x``.

    One collective, with gradient. Local moments are joined by the parallel formula of Chan, Golub
    and LeVeque (1979), which does not subtract large squares.

    Args:
        x: ``[B, C, ...]``; B may differ from rank to rank.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    channels = x.shape[1]
    var, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
    count = mean.new_full((1,), x.numel() / channels)
    moments = dist.gather(torch.cat([mean, var, count])[None])
    means, variances, counts = torch.split(moments, [channels, channels, 1], dim=1)
    total = counts.sum(0)
    share = counts / total
    mean = (share * means).sum(0)
    var = (share * (variances + (means - mean) ** 2)).sum(0)
    return mean, var, total


def build_norm(kind: str, channels: int) -> nn.Module:
    """Returns a norm of images: ``'BN'`` (statistics of each rank) or ``'SyncBN'`` (of all)."""
    if kind == "BN":
        return nn.BatchNorm2d(channels)
    if kind == "SyncBN":
        return SyncBatchNorm(channels)
    raise ValueError(f"norm={kind!r} is neither 'BN' nor 'SyncBN'")
