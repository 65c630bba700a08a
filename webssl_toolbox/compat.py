"""The only file that knows quirks of torch, torchvision, mmengine and the C library."""

from __future__ import annotations

import ctypes
import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# torch 2.13 renamed the collective that joins the rows of all ranks.
all_gather_rows: Any = getattr(
    torch_dist, "all_gather_single", getattr(torch_dist, "all_gather_into_tensor", None)
)


def keep_freed_memory() -> None:
    """Lets this process use the memory of one image for the next, where the C library is glibc.

    It would give back whatever is as large as an image, and get it page by page for the next: a
    seventh of the time that decoding and two crops take.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: 32 MiB, the most that it takes
        mallopt(-1, 1 << 26)  # M_TRIM_THRESHOLD


def wait_for_gloo() -> None:
    """Lets gloo's threads free the tensors of the last collectives, on Linux.

    Sharded modules keep the group, and so its threads, after its end; one that needs Python's lock
    to free a tensor while Python ends aborts the process (pytorch/pytorch#190489). A thread that
    waits for the lock becomes runnable in the sleep, and so is seen, however late it runs.
    """
    idle = 0
    while idle < 2:
        time.sleep(0.001)
        idle += 1
        for stat in Path("/proc/self/task").glob("*/stat"):
            with suppress(OSError):  # a thread that ended
                if stat.read_text().partition("(")[2].startswith("pt_gloo_runloop) R"):
                    idle = 0


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


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Turns autocast off on the device of ``x``; the meta device knows none, and refuses to ask."""
    if x.is_meta:
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


@contextmanager
def absent(library: str) -> Iterator[None]:
    """Lets imports inside find no such library, unless something imported it before.

    ``mmengine.optim`` imports transformers where it is installed, for an optimizer: a second.
    """
    hide = library not in sys.modules
    if hide:
        sys.modules[library] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hide:
            del sys.modules[library]


_torchvision_operators: Any = None  # declarations last as long as this object


def import_torchvision() -> None:
    """Imports torchvision, where it is installed: its published wheel fails beside a CPU torch.

    That wheel is linked to CUDA, so its operators are not loaded there, and its import stops at
    the first of them that it wants to describe. Declared, they suffice for the import.
    """
    global _torchvision_operators
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        _torchvision_operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _torchvision_operators.define(
                f"{name}(Tensor dets, Tensor scores, float iou) -> Tensor"
            )
        importlib.import_module("torchvision")


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Scaled dot-product attention of ``[B, heads, L, D]``.

    On CPUs, torch's fused kernel is 3 to 10 times slower in bfloat16 than two matmuls around a
    softmax (measured with torch 2.13 at 6 to 197 tokens); in float32 it is the faster one.

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: bool, broadcast to ``[B, heads, L, L]``; true where a query sees a key.
        causal: hide later keys; without ``mask``.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if causal:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.softmax(-1).to(v.dtype) @ v
