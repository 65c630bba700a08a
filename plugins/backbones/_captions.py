"""What text towers share: captions in one packed stream, with no more padding than it must have."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from webssl_toolbox.objective import Need
from webssl_toolbox.towers import Encoding, Part, Segment, Tower, refuse_patches

from ._clip_bpe import CLIPTokenizer
from ._common import Group, Layout, pack, refuse_fusion, unpack


class CaptionTower(Tower):
    """Encodes all captions of a step in one pass, in buckets of similar length.

    The buckets are planned on the host, from the lengths, without a device sync. The columns of
    ``Encoding.tokens`` are those of the ids, cut at the longest caption of the view; what they hold
    on padding is unspecified, so read them together with ``Encoding.valid``.

    The gradient of the token embedding is dense: with 49,409 rows, it outweighs all else that a
    narrow tower writes in a step.

    Args:
        width: channels.
        context_length: the most tokens of a caption.
        vocab_size: ids of the tokenizer.
        causal: whether tokens see the tokens before them only.
        pool: ``'eot'``, the last token of a caption; ``'cls'``, the first; or ``'mean'`` of all.

    Raises:
        ValueError: the arguments contradict one another.
    """

    def __init__(
        self, width: int, context_length: int, vocab_size: int, causal: bool, pool: str
    ) -> None:
        super().__init__()
        if pool not in ("eot", "mean", "cls"):
            raise ValueError(f"pool={pool!r} is none of 'eot', 'mean', 'cls'")
        if pool == "cls" and causal:
            raise ValueError(
                "pool='cls' reads the first token, which sees no other while causal=True; "
                "set causal=False, or pool='eot'"
            )
        self.tokenizer = CLIPTokenizer(context_length, vocab_size)
        self.width = self.token_width = width
        self.context_length = context_length
        self.causal = causal
        self.pool = pool
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))

    def encode(self, x: Tensor, layout: Layout) -> Tensor:
        """Maps the stream ``[total, width]`` of token and position embeddings to final tokens."""
        raise NotImplementedError

    def head(self, ends: Tensor) -> Tensor:
        """Maps the tokens ``[B, width]`` that stand for their captions; as they are here."""
        return ends

    def plan(self, needs: frozenset[Need]) -> None:
        refuse_fusion(self, needs)
        refuse_patches(self, needs)

    def forward(self, segments: list[Segment]) -> list[Encoding]:
        parts = [segment.part for segment in segments]
        device = parts[0].data.device
        by_part = [caption_lengths(part, self.context_length) for part in parts]
        lengths = np.concatenate(by_part)
        buckets = length_buckets(lengths)
        layout = tuple(self._group(lengths[rows], device) for rows in buckets)
        starts = np.empty_like(lengths)  # where each row begins in the stream
        base = 0
        for rows, group in zip(buckets, layout, strict=True):
            starts[rows] = base + group.length * np.arange(group.rows)
            base += group.rows * group.length

        embedded = self.token_embedding(_packed_ids(parts, lengths, buckets))
        sequences = unpack(embedded, layout)
        x = pack([seq + self.positional_embedding[: seq.shape[1]] for seq in sequences])
        x = self.encode(x, layout)

        tokens = _by_part(x, layout, by_part, starts)
        if self.pool == "mean":
            weights = [valid_tokens(n) / n[:, None] for n in by_part]
            means = [send(w, device).to(x.dtype)[:, None] for w in weights]
            pooled = [(w @ t).squeeze(1) for w, t in zip(means, tokens, strict=True)]
        else:
            rows = starts if self.pool == "cls" else starts + lengths - 1
            ends = self.head(x.index_select(0, send(rows, device)))
            pooled = list(torch.split(ends, [len(n) for n in by_part]))
        valid = [None if n.min() == n.max() else send(valid_tokens(n), device) for n in by_part]
        return [Encoding(*fields) for fields in zip(pooled, tokens, valid, strict=True)]

    def _group(self, lengths: np.ndarray, device: torch.device) -> Group:
        rows, longest = len(lengths), int(lengths.max())
        if self.causal or lengths.min() == longest:  # no valid token sees padding
            return Group(rows, longest)
        return Group(rows, longest, send(valid_tokens(lengths), device)[:, None, None])


def caption_lengths(part: Part, context_length: int) -> np.ndarray:
    """Returns the checked lengths ``[B]`` of a view's captions.

    Raises:
        ValueError: the view has no lengths, or captions of more than ``context_length`` tokens.
    """
    if part.length is None:
        raise ValueError(f"view {part.view!r} has no lengths; pass `length` with its ids")
    lengths: np.ndarray = part.length.numpy()
    most = min(part.data.shape[1], context_length)
    if lengths.min() < 1 or lengths.max() > most:
        raise ValueError(
            f"view {part.view!r} has captions of {lengths.min()} to {lengths.max()} tokens, "
            f"not 1 to {most}; tokenise them with context_length={context_length}"
        )
    return lengths


def length_buckets(lengths: np.ndarray, most: int = 4, waste: float = 0.05) -> list[np.ndarray]:
    """Sorts captions into buckets that are each padded to their longest.

    Starts from one bucket for each multiple of 8 and merges neighbours, the cheapest first, while
    there are too many of them or the merge costs little: each bucket costs every block one more
    call of attention.

    Args:
        lengths: ``[rows]``.
        most: the most buckets.
        waste: padding that a merge may add, over all tokens.

    Returns:
        The row numbers of each bucket, ascending; a single bucket keeps the order of the batch.
    """
    multiple = -(-lengths // 8)
    buckets = [np.flatnonzero(multiple == m) for m in np.unique(multiple)]
    while len(buckets) > 1:
        longest = [int(lengths[rows].max()) for rows in buckets]
        cost = [len(rows) * (longest[i + 1] - longest[i]) for i, rows in enumerate(buckets[:-1])]
        i = int(np.argmin(cost))
        if len(buckets) <= most and cost[i] > waste * lengths.sum():
            break
        buckets[i : i + 2] = [np.sort(np.concatenate(buckets[i : i + 2]))]
    return buckets


def _packed_ids(parts: list[Part], lengths: np.ndarray, buckets: list[np.ndarray]) -> Tensor:
    """Returns the ids ``[total]`` of the stream."""
    longest = int(lengths.max())
    if len(buckets) == 1 and all(part.data.shape[1] >= longest for part in parts):
        return torch.cat([part.data[:, :longest] for part in parts]).flatten()
    # Rows begin where they do in the flattened ids, one view after the other.
    widths = np.concatenate([np.full(len(p.data), p.data.shape[1]) for p in parts])
    index = _token_index(np.cumsum(widths) - widths, lengths, buckets)
    ids = torch.cat([part.data.flatten() for part in parts])
    return ids.index_select(0, send(index, ids.device))


def _by_part(
    x: Tensor, layout: Layout, by_part: list[np.ndarray], starts: np.ndarray
) -> list[Tensor]:
    """Returns the tokens ``[B, T, width]`` of each view, T being its longest caption."""
    rows = [len(lengths) for lengths in by_part]
    longest = [int(lengths.max()) for lengths in by_part]
    if len(layout) == 1:
        (sequence,) = unpack(x, layout)
        views = zip(torch.split(sequence, rows), longest, strict=True)
        return [view[:, :length] for view, length in views]
    numbers = np.split(np.arange(len(starts)), np.cumsum(rows)[:-1])
    index = _token_index(starts, np.concatenate(by_part), numbers)
    flat = x.index_select(0, send(index, x.device))
    return unpack(flat, tuple(Group(*size) for size in zip(rows, longest, strict=True)))


def _token_index(starts: np.ndarray, lengths: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    """Returns where each token of each row of each group lies; padding repeats the last token."""
    index = []
    for rows in groups:
        column = np.arange(lengths[rows].max())
        index.append(starts[rows, None] + np.minimum(column, lengths[rows, None] - 1))
    return np.concatenate([grid.ravel() for grid in index])


def valid_tokens(lengths: np.ndarray) -> np.ndarray:
    """Returns bool ``[B, longest]``, false on padding."""
    return np.arange(lengths.max()) < lengths[:, None]


def send(array: np.ndarray, device: torch.device) -> Tensor:
    """Copies an array of the host to a device."""
    return torch.from_numpy(array).to(device, non_blocking=True)
