"""Contrastive maths shared by the objectives that compare rows with the rows of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from webssl_toolbox import Features, Need, Space, Tower, dist
from webssl_toolbox.compat import full_precision

ROWS = 4096  # rows of similarities held at a time: beyond it, they are recomputed in backward

Piece = TypeVar("Piece")


def contrast(images: Tensor, texts: Tensor, scale: Tensor, rows: int = ROWS) -> Tensor:
    """InfoNCE in both directions for every pair of an image view and a text view.

    Local images against the texts of all ranks; the positive of local row b is column
    ``rank * B + b``. One matmul serves all pairs and both directions: what a text says of the
    images of other pieces, or of other ranks, is the logsumexp of theirs. Source: CLIP (Radford et
    al. 2021), figure 3.

    Args:
        images: ``[m, B, D]`` unit vectors of m views, this rank's.
        texts: ``[n, G, D]``, those of all ranks.
        scale: ``[1]``, inverse temperature.
        rows: hold the similarities of at most this many images at a time.

    Returns:
        ``[m, n]`` losses, means over local rows.
    """
    size = images.shape[1]
    # Similarities are scaled by up to 100: eight bits of mantissa would be noise.
    with full_precision(images):
        scaled = images * scale
        pieces = in_pieces(
            lambda piece, offset: _both_ways(scaled[:, piece], texts, offset), size, rows
        )
        to_text, columns = zip(*pieces, strict=True)
        to_image = reduce(torch.logaddexp, columns)
        if dist.world_size() > 1:
            to_image = dist.gather(to_image[None]).logsumexp(0)
            to_image = to_image.narrow(2, dist.row_offset(size), size)
        return (reduce(torch.add, to_text) + to_image.sum(2)) / (2 * size)


def _both_ways(images: Tensor, texts: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Returns the loss to texts less the positives of the way back, summed over rows, ``[m, n]``;
    and for each text the logsumexp over these images, ``[m, n, G]``.
    """
    logits = similarities(images, texts)
    positive = logits.diagonal(offset, dim1=1, dim2=3)
    return logits.logsumexp(3).sum(1) - 2 * positive.sum(2), logits.logsumexp(1)


def one_way(queries: Tensor, keys: Tensor, rows: int = ROWS) -> Tensor:
    """InfoNCE from scaled ``queries [m, B, D]`` to ``keys [n, G, D]``; returns ``[m, n]``."""
    with full_precision(queries):
        pieces = in_pieces(
            lambda piece, offset: _from_rows(queries[:, piece], keys, offset),
            *(queries.shape[1], rows),
        )
        return torch.cat(pieces, 2).mean(2)


def _from_rows(queries: Tensor, keys: Tensor, offset: int) -> Tensor:
    """Returns the loss of each row, ``[m, n, b]``."""
    logits = similarities(queries, keys)
    return logits.logsumexp(3).transpose(1, 2) - logits.diagonal(offset, dim1=1, dim2=3)


def in_pieces(work: Callable[[slice, int], Piece], size: int, rows: int) -> list[Piece]:
    """Works on local rows; where there are more than ``rows``, piece by piece.

    Args:
        work: what to do with a piece, whose first positive is in a given column. Pieces are
            computed again in backward.
        size: local rows.
        rows: the largest piece.
    """
    offset = dist.row_offset(size)
    if size <= rows:
        return [work(slice(size), offset)]
    return [
        checkpoint(work, slice(start, start + rows), offset + start, use_reentrant=False)
        for start in range(0, size, rows)
    ]


def similarities(queries: Tensor, keys: Tensor) -> Tensor:
    """All dot products of ``[m, B, D]`` and ``[n, G, D]`` in one matmul, ``[m, B, n, G]``."""
    (m, b, _), (n, g, _) = queries.shape, keys.shape
    return (queries.flatten(0, 1) @ keys.flatten(0, 1).T).view(m, b, n, g)


def embedded(features: Features, needs: list[Need], space: str) -> Tensor:
    """Stacks this rank's embeddings of several views, ``[m, B, D]``."""
    return torch.stack([features.embed(need, space) for need in needs])


def gathered(features: Features, needs: list[Need], space: str) -> Tensor:
    """Stacks embeddings of several views, those of all ranks, ``[m, G, D]``."""
    return torch.stack([features.gathered(need, space) for need in needs])


def gather_rows(x: Tensor) -> Tensor:
    """Gathers ``[n, B, ...]`` over ranks along the rows, ``[n, G, ...]``."""
    return dist.gather(x.transpose(0, 1)).transpose(0, 1)


def attach_pair(towers: Mapping[str, Tower], space: Space) -> None:
    """Attaches the image and the text tower to a joint space, and uses its temperature."""
    for name in ("image", "text"):
        space.attach(name, towers[name].width)
    cast(Any, space).use_scale()
