"""From the drawn views of samples to the tensors of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Stacks the drawn samples of a batch; values with a ``collate`` of their own use it."""
    batch: dict[str, Tensor] = {}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        if hasattr(first, "collate"):
            batch.update(first.collate(name, values))
            continue
        try:
            batch[name] = torch.from_numpy(np.stack(values))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"view {name!r} gives values that cannot be stacked ({error}): an image view needs "
                "a crop to one size, a text view ends with Tokenize"
            ) from None
    return batch


@dataclass(frozen=True)
class Tokens:
    """A tokenised caption.

    Attributes:
        ids: int64 ``[L]``.
        caption: stable hash of the caption before augmentation: who said it.
        index: int64 ``[M]``, positions hidden from the encoder (MLM); None for none.
        target: int64 ``[M]``, the true ids there.
        keep: int64 ``[K]``, ascending: the positions to encode, where the others are dropped; None
            for all.
    """

    ids: np.ndarray
    caption: int
    index: np.ndarray | None = None
    target: np.ndarray | None = None
    keep: np.ndarray | None = None

    @staticmethod
    def collate(name: str, values: Sequence[Tokens]) -> dict[str, Tensor]:
        """Pads to the longest caption.

        Returns:
            ``name`` ids ``[B, L]``; ``name.length`` ``[B]``; ``name.caption`` ``[B]``; with masks
            ``name.index`` ``[M]`` into the flattened ``[B * L]`` and ``name.target`` ``[M]``; where
            tokens are dropped ``name.keep`` ``[B, K]`` and ``name.keep.length`` ``[B]``.
        """
        out = _padded(name, [v.ids for v in values])
        out[f"{name}.caption"] = torch.tensor([v.caption for v in values])
        longest = out[name].shape[1]
        if values[0].index is not None:
            index = [v.index + b * longest for b, v in enumerate(values) if v.index is not None]
            target = [v.target for v in values if v.target is not None]
            out[f"{name}.index"] = torch.from_numpy(np.concatenate(index))
            out[f"{name}.target"] = torch.from_numpy(np.concatenate(target))
        kept = [v.keep for v in values if v.keep is not None]
        return out | (_padded(f"{name}.keep", kept) if kept else {})


def _padded(name: str, rows: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Returns rows as ``name [B, L]``, zeros on the right, and their lengths."""
    lengths = [len(row) for row in rows]
    padded = np.zeros((len(rows), max(lengths)), dtype=np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return {name: torch.from_numpy(padded), f"{name}.length": torch.tensor(lengths)}


@dataclass(frozen=True)
class PatchMask:
    """The patches of an image to hide.

    Attributes:
        hidden: bool ``[N]``.
    """

    hidden: np.ndarray

    @staticmethod
    def collate(name: str, values: Sequence[PatchMask]) -> dict[str, Tensor]:
        """Stacks masks, and gives their positions as an index, which needs no device sync.

        Returns:
            ``name`` bool ``[B, N]``; ``name.index`` int64 ``[M]`` into the flattened ``[B * N]``;
            ``name.weight`` float32 ``[M]``, one over the number hidden in that image.
        """
        hidden = np.stack([value.hidden for value in values])
        count = hidden.sum(1, keepdims=True)
        weight = np.broadcast_to(1 / np.maximum(count, 1), hidden.shape)[hidden]
        return {
            name: torch.from_numpy(hidden),
            f"{name}.index": torch.from_numpy(np.flatnonzero(hidden)),
            f"{name}.weight": torch.from_numpy(weight.astype(np.float32)),
        }
