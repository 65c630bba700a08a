"""Rows that are encoded once: ranks share them, and a store keeps what is finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor

from .. import dist

ROWS = 4096  # of a piece, or the next lower multiple of a batch


class Piece(NamedTuple):
    """What became of some rows: tensors ``[R, ...]`` of those that can be read, notes of all."""

    tensors: dict[str, Tensor]
    notes: list[Any]  # JSON data


Store = MutableMapping[int, Piece]  # by their first row
Encode = Callable[[range], Piece]


def in_pieces(
    where: str, count: int, batch: int, encode: Encode, store: Store | None = None
) -> Iterator[Piece]:
    """Yields the pieces of all rows on all ranks, which share the batches that one would have.

    Args:
        where: names the rows, the same on all ranks.
        count: of rows.
        batch: rows encoded at a time.
        encode: makes a piece of one batch.
        store: pieces are taken from it, or put there by the first rank; all ranks see the same.

    Raises:
        Failed: on all ranks, where one of them failed, or has another count.
    """
    counts, (kept, *_) = zip(*dist.meet(where, [count, sorted(store or ())]), strict=True)
    if len(set(counts)) > 1:
        raise dist.Failed(f"{where}: ranks see {list(counts)} rows; give all ranks the same files")
    rows = max(1, ROWS // batch) * batch
    for first in range(0, count, rows):
        if store is not None and first in kept:
            yield store[first]
            continue
        batches = [range(count)[i : i + batch] for i in range(count)[first : first + rows : batch]]
        piece = _shared(where, batches, encode)
        if store is not None and dist.rank() == 0:
            store[first] = piece
        yield piece


def _shared(where: str, batches: Sequence[range], encode: Encode) -> Piece:
    share = -(-len(batches) // dist.world_size())
    made, error = Piece({}, []), None
    try:
        made = joined([encode(each) for each in batches[dist.rank() * share :][:share]])
    except (ValueError, OSError, RuntimeError) as failed:
        error = failed
    notes = dist.meet(where, made.notes, error)
    if len(notes) == 1:
        return made
    parts = map(load, dist.gather_bytes(save(made.tensors)))
    return joined([Piece(*part) for part in zip(parts, notes, strict=True)])


def joined(pieces: Sequence[Piece]) -> Piece:
    """Returns several pieces as one; some may have no tensors."""
    names = {name: None for piece in pieces for name in piece.tensors}
    tensors = {n: torch.cat([p.tensors[n] for p in pieces if n in p.tensors]) for n in names}
    return Piece(tensors, [note for piece in pieces for note in piece.notes])
