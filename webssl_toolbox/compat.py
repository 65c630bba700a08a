"""The only file that knows version quirks of torch and mmengine."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as torch_dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

# torch 2.13 renamed the collective that joins the rows of all ranks.
all_gather_rows: Any = getattr(
    torch_dist, "all_gather_single", getattr(torch_dist, "all_gather_into_tensor", None)
)


def data_parallel(model: nn.Module) -> nn.Module:
    """Wraps a model whose buffers are equal on all ranks already, and all of whose parameters are
    used in each step: DDP need neither broadcast nor search.
    """
    new = "forward_sync_buffers" in DistributedDataParallel.__init__.__code__.co_varnames
    buffers: Any = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **buffers)


def has_native_bf16(device: torch.device) -> bool:
    """Returns whether bfloat16 is computed in hardware; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        cpu: Any = torch.cpu
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(cpu, probe, bool)() for probe in probes)
    return False
