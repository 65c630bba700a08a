"""Every collective of the toolbox.

The law: a loss is written for local rows and gathered columns, and reduced by the mean. Each rank
back-propagates its own loss, gathers sum the gradients of all ranks, and data parallelism averages
parameters' gradients over ranks. That equals the gradient of one process on the joined batch, with
no factor of the world size anywhere but here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as torch_dist
import torch.nn.functional as F
from torch import Tensor

from .compat import all_gather_rows, wait_for_gloo

_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Lets this rank work as if there were no other, while the others wait for it."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


def is_initialized() -> bool:
    """Returns whether a process group exists."""
    return torch_dist.is_available() and torch_dist.is_initialized() and not _alone


def rank() -> int:
    """Returns this process's rank, 0 without a process group."""
    return torch_dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """Returns the number of ranks, 1 without a process group."""
    return torch_dist.get_world_size() if is_initialized() else 1


def init(device: torch.device) -> None:
    """Joins the process group that torchrun describes in the environment, if there is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not is_initialized():
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        on_gpu = device.type == "cuda"
        store, own, ranks = next(rendezvous("env://"))
        # torchrun keeps its store when it starts the ranks again, with the addresses of dead ones.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        torch_dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=PrefixStore(attempt, store),
            rank=own,
            world_size=ranks,
            timeout=timedelta(hours=6),  # others wait while the first rank evaluates
            device_id=device if on_gpu else None,
        )


def shutdown() -> None:
    """Leaves the process group, unless for an error: NCCL would wait for ranks that wait."""
    if is_initialized() and not isinstance(sys.exception(), Exception):
        torch_dist.destroy_process_group()
        wait_for_gloo()


def barrier() -> None:
    """Waits for all ranks."""
    if is_initialized():
        torch_dist.barrier()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        return _all_gather(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # Sum over ranks of what each rank's loss says of every row, then keep our own rows.
        # A copy: autograd may hand the same tensor to other branches.
        grad = grad.clone(memory_format=torch.contiguous_format)
        torch_dist.all_reduce(grad)
        return grad.narrow(0, rank() * ctx.rows, ctx.rows)


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.clone()
        torch_dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        torch_dist.all_reduce(grad)
        return grad


def _all_gather(x: Tensor) -> Tensor:
    out = x.new_empty(world_size() * x.shape[0], *x.shape[1:])
    all_gather_rows(out, x.contiguous())
    return out


def gather(x: Tensor) -> Tensor:
    """Joins the rows of all ranks, in rank order, with gradient.

    Args:
        x: ``[B, ...]`` of the same shape on every rank.

    Returns:
        ``[world_size * B, ...]``; ``x`` itself on one rank.
    """
    if world_size() == 1:
        return x
    if x.requires_grad and torch.is_grad_enabled():
        return _Gather.apply(x)  # type: ignore[no-untyped-call]
    return _all_gather(x)


def all_sum(x: Tensor) -> Tensor:
    """Sums ``x`` over ranks, with gradient (each rank receives the sum of all ranks' gradients)."""
    return x if world_size() == 1 else _AllSum.apply(x)  # type: ignore[no-untyped-call]


def mean(total: Tensor, count: Tensor | int) -> Tensor:
    """Averages over items whose number differs from rank to rank (masked tokens, visible patches).

    Args:
        total: this rank's sum, ``[]``.
        count: this rank's number of items; 0 is allowed.

    Returns:
        ``[]``: a local loss whose average over ranks is (sum over ranks) / (count over ranks), in
        value and in gradient; 0 with zero gradient where no rank has an item.
    """
    # `new_full`, since a tensor made of a Python number is copied to a device while the host waits.
    number = count.to(total).clone() if isinstance(count, Tensor) else total.new_full((), count)
    ranks = world_size()
    if ranks > 1:
        torch_dist.all_reduce(number)
    return total * ranks / number.clamp(min=1)


def average(x: Tensor) -> Tensor:
    """Averages a detached ``x`` over ranks, for logging."""
    return all_sum(x.detach()) / world_size()


def largest(x: Tensor) -> None:
    """Overwrites ``x`` with the largest of all ranks, elementwise."""
    if world_size() > 1:
        torch_dist.all_reduce(x, torch_dist.ReduceOp.MAX)


def gather_bytes(data: bytes) -> list[bytes]:
    """Returns the ``data`` of each rank, of any length, in rank order; the host waits for it."""
    if not is_initialized():
        return [data]
    device = "cuda" if torch_dist.get_backend() == "nccl" else "cpu"
    own = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)
    lengths = _all_gather(torch.tensor([len(own)], device=device)).tolist()
    rows = _all_gather(F.pad(own, (0, max(lengths) - len(own)))[None]).cpu().numpy()
    return [row[:n].tobytes() for row, n in zip(rows, lengths, strict=True)]


def gather_json(value: Any) -> list[Any]:
    """Returns the ``value`` of each rank, which is JSON data, in rank order.

    Not torch's collective for objects, which unpickles what it receives.
    """
    return [json.loads(text) for text in gather_bytes(json.dumps(value).encode())]


class Failed(ValueError):
    """What went wrong on one rank, and has ended the work of all."""


def meet(where: str, value: Any = None, error: Exception | None = None) -> list[Any]:
    """Returns the ``value`` of each rank, as ``gather_json``, if none of them brings an error.

    So that none waits for one that failed. Any two of these calls fit together.

    Raises:
        Failed: on all ranks, where one brings an error or is elsewhere.
    """
    found = gather_json([where, value, error and (str(error) or repr(error))])
    if error:
        raise error if len(found) == 1 else Failed(str(error))
    if errors := [f"rank {i} failed: {said}" for i, (*_, said) in enumerate(found) if said]:
        raise Failed(errors[0])
    if len(places := {place for place, *_ in found}) > 1:
        raise Failed(f"ranks have come apart: they are at {sorted(places)}")
    return [value for _, value, _ in found]


def row_offset(rows: int) -> int:
    """Returns where this rank's ``rows`` begin in a gathered tensor."""
    return rank() * rows


def broadcast(tensors: list[Tensor]) -> None:
    """Overwrites each tensor with rank 0's."""
    if world_size() > 1:
        for tensor in tensors:
            torch_dist.broadcast(tensor, 0)


def mesh(device: torch.device) -> Any:
    """Returns all ranks in a row, to shard over."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (world_size(),))


def is_sharded(x: Tensor) -> bool:
    """Returns whether a rank holds a part of ``x`` only."""
    return hasattr(x, "full_tensor")  # a DTensor, without the second that its import takes


@torch.no_grad()
def local(x: Tensor) -> Tensor:
    """Returns this rank's rows of a sharded tensor, any other tensor as it is; for no gradient."""
    sharded: Any = x
    return sharded.to_local() if is_sharded(x) else x


@torch.no_grad()
def whole(x: Tensor) -> Tensor:
    """Returns a sharded tensor in full, when all ranks ask for it; any other as it is; detached."""
    sharded: Any = x
    return sharded.full_tensor() if is_sharded(x) else x.detach()


@torch.no_grad()
def fill(target: Tensor, value: Tensor) -> None:
    """Copies ``value`` into ``target``, or this rank's rows of it where ``target`` is sharded."""
    if is_sharded(target):
        target = local(target)
        first = min(rank() * -(-len(value) // world_size()), len(value))  # ranks' shares by chunk()
        value = value[first : first + len(target)]
    target.copy_(value)


def fill_from_first(target: Tensor, value: Tensor | None) -> None:
    """Fills ``target`` with the ``value`` of the first rank; the others give None."""
    if value is None:
        value = torch.empty(target.shape, dtype=target.dtype, device=target.device)
    value = value.detach().to(target.device).contiguous()
    broadcast([value])
    fill(target, value)


@torch.no_grad()
def norms(tensors: list[list[Tensor]]) -> list[Tensor]:
    """Returns the norm of each list of tensors, ``[]``; where they are sharded, of all shards."""
    norm = torch.nn.utils.get_total_norm
    parts = [norm([local(x) for x in each], foreach=True) for each in tensors]
    if not is_sharded(tensors[0][0]):
        return parts
    return list(all_sum(torch.stack(parts).square()).sqrt())
