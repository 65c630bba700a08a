"""Tensors one after the other, into files and out of them, so that no more are whole at once.

Those that ranks share are gathered when their turn comes; then all ranks must take part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import dist

DTYPES = {
    **{getattr(torch, f"float{bits}"): f"F{bits}" for bits in (64, 32, 16)},
    **{getattr(torch, f"int{bits}"): f"I{bits}" for bits in (64, 32, 16, 8)},
    **{torch.bfloat16: "BF16", torch.uint8: "U8", torch.bool: "BOOL"},
}


def write(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes safetensors, as their library would with all in memory; returns the file's SHA-256.

    Tied weights are stored under each of their names, and come back equal.
    """
    header, end = {}, 0
    for name, tensor in _ordered(tensors).items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        dtype, shape = DTYPES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    sha = hashlib.sha256()
    with file.open("wb") as stream:
        contents = map(_bytes, _ordered(tensors).values())
        for piece in chain((len(text).to_bytes(8, "little"), text), contents):
            sha.update(piece)
            stream.write(piece)
    return sha.hexdigest()


def take_part(tensors: Mapping[str, Tensor]) -> None:
    """Hands this rank's shards to the one that writes."""
    for tensor in _ordered(tensors).values():
        dist.whole(tensor)


def sha256(tensors: Mapping[str, Tensor]) -> str:
    """Returns SHA-256 over names, dtypes, shapes and bytes."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(_bytes(tensor))
    return sha.hexdigest()


def copy_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies tensors into those of the same names, in place; a rank copies the rows it holds.

    Files are mapped into memory, so that of them it reads no more.
    """
    for name, own in model.state_dict().items():
        if name in tensors:
            dist.fill(own, tensors[name])


def _bytes(tensor: Tensor) -> Any:
    return dist.whole(tensor).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _ordered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sorts by name, larger elements first, so that all lie aligned."""
    return dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
