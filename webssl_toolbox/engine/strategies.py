"""How ranks hold a model: whole on each of them, or in shards; no model knows of it.

What changes a model comes in one order: towers are built with recomputation of their blocks, the
blocks are compiled, then sharded, and last the root with all that no block holds: embeddings and
norms of towers, spaces, objectives. The root stays gathered from the first tower to the last
gradient, so whatever an objective reads of a space or a tower is whole. Averages are sharded as
what they follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from .. import dist
from ..compat import data_parallel
from ..encoder import Encoder
from ..pretrainer import Pretrainer
from ..registry import MODELS
from .dry_run import build_on_meta


def choose(name: str | None) -> str:
    """Returns the strategy of a config for the ranks that there are; one of them needs none.

    Raises:
        ValueError: ``'single'`` for several ranks.
    """
    ranks = dist.world_size()
    if name == "single" and ranks > 1:
        raise ValueError(f"strategy='single' is for one process, not for {ranks}; leave it out")
    return "single" if ranks == 1 else name or "ddp"


def build(
    cfg: Mapping[str, Any], strategy: str, device: torch.device, precision: str = "fp32"
) -> Pretrainer:
    """Builds the model of a config where it will train.

    To be sharded it is built without numbers, and receives those of the first rank tensor by
    tensor: one host holds it whole, and no device ever does.

    Args:
        cfg: the ``model`` section.
        strategy: as ``choose`` returns it.
        device: of this rank.
        precision: ``'bf16'`` gathers the blocks in it; shards stay in float32.
    """
    if strategy != "fsdp2":
        return _create(cfg).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = build_on_meta(cfg)
    shard(model, device, precision, bool(cfg.get("compile")))
    model.to_empty(device=device)
    whole = _tensors(_create(cfg)) if dist.rank() == 0 else {}
    for name, tensor in _tensors(model).items():
        dist.fill_from_first(tensor, whole[name] if whole else None)
    return model


def shard(
    model: Pretrainer, device: torch.device, precision: str = "fp32", compile: bool = False
) -> None:
    """Shards the parameters of a model over all ranks, in place (FSDP2).

    Args:
        model: on ``device``, or on the meta device.
        device: of this rank.
        precision: as for ``build``.
        compile: whether to compile the blocks.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # Autocast leaves the stream between blocks in float32, so inputs are not cast.
    # On CPUs it has no layer norm of mixed types, and nowhere a batch norm.
    low = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    full, mesh = MixedPrecisionPolicy(), dist.mesh(device)
    for block in blocks(model.towers):
        if compile:
            block.compile()
        batch_norm = any(hasattr(module, "running_mean") for module in block.modules())
        lower = precision == "bf16" and device.type == "cuda" and not batch_norm
        fully_shard(block, mesh=mesh, mp_policy=low if lower else full)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


def blocks(module: nn.Module) -> list[nn.Module]:
    """Returns what towers repeat: the entries of the outermost lists that hold one class."""
    found: list[nn.Module] = []
    for child in module.children():
        entries = list(child.children())
        listed = isinstance(child, nn.ModuleList | nn.Sequential)
        if listed and len({type(entry) for entry in entries}) == 1:
            found += [entry for entry in entries if next(entry.parameters(), None) is not None]
        else:
            found += blocks(child)
    return found


def wrap(model: Pretrainer, strategy: str) -> Callable[[Mapping[str, Tensor]], Any]:
    """Returns what a step calls; gradients are then averaged over ranks."""
    if strategy == "ddp":
        return data_parallel(model)
    if strategy == "fsdp2":

        def forward(inputs: Mapping[str, Tensor]) -> Any:
            # FSDP would move what lies in a dict to the device, also lengths that the host reads.
            losses, logs = model(MappingProxyType(inputs))
            # A log may be a view of a parameter, whose memory is freed in the backward pass.
            return losses, {name: value.clone() for name, value in logs.items()}

        return forward
    return model


@contextmanager
def evaluable(encoder: Encoder | None, cfg: Mapping[str, Any], strategy: str) -> Iterator[None]:
    """Gives the encoder of the first rank a whole copy of a sharded model; all ranks call it.

    Args:
        encoder: of the model that is trained; None for no evaluation.
        cfg: the ``model`` section.
        strategy: as ``choose`` returns it.
    """
    if strategy != "fsdp2" or encoder is None:
        yield
        return
    sharded, copy = encoder.model, build_on_meta(cfg)
    if dist.rank() == 0:
        encoder.model = copy.to_empty(device=next(sharded.parameters()).device)
    values = _tensors(copy)
    for name, tensor in _tensors(sharded).items():
        value = dist.whole(tensor)
        if dist.rank() == 0:
            dist.fill(values[name], value)
    try:
        yield
    finally:
        encoder.model = sharded


def _create(cfg: Mapping[str, Any]) -> Pretrainer:
    model: Pretrainer = MODELS.create({"type": "Pretrainer"} | dict(cfg), "model")
    return model


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns parameters and buffers, those that no checkpoint stores too."""
    parameters = model.named_parameters(remove_duplicate=False)
    return dict(parameters) | dict(model.named_buffers(remove_duplicate=False))
