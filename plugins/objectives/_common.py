"""Contrastive maths shared by the objectives that compare images with texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from webssl_toolbox import Features, Need, Space, Tower, dist
from webssl_toolbox.compat import full_precision

ROWS = 4096  # rows of similarities held at a time: beyond it, they are recomputed in backward


def contrast(
    images: Tensor,
    texts: Tensor,
    all_images: Tensor,
    all_texts: Tensor,
    scale: Tensor,
    rows: int = ROWS,
) -> Tensor:
    """InfoNCE in both directions for every pair of an image view and a text view.

    Local rows against gathered columns; the positive of local row b is column
    ``rank * B + b``. Source: CLIP (Radford et al. 2021), figure 3.

    Args:
        images: ``[m, B, D]`` unit vectors of m views.
        texts: ``[n, B, D]``.
        all_images: ``[m, G, D]``, those of all ranks.
        all_texts: ``[n, G, D]``.
        scale: ``[1]``, inverse temperature.
        rows: hold at most this many rows of similarities at a time.

    Returns:
        ``[m, n]`` losses, means over local rows.
    """
    # Similarities are scaled by up to 100: eight bits of mantissa would be noise.
    with full_precision(images):
        scaled = images * scale
        if all_images is images and all_texts is texts and len(images[0]) <= rows:
            # One matmul serves all pairs and both directions.
            logits = _similarities(scaled, texts)
            positive = logits.diagonal(dim1=1, dim2=3).mean(-1)
            to_text, to_image = logits.logsumexp(3).mean(1), logits.logsumexp(1).mean(-1)
            return (to_text + to_image) / 2 - positive
        to_text = one_way(scaled, all_texts, rows)
        to_image = one_way(texts * scale, all_images, rows)
        return (to_text + to_image.T) / 2


def one_way(queries: Tensor, keys: Tensor, rows: int = ROWS) -> Tensor:
    """InfoNCE from scaled ``queries [m, B, D]`` to ``keys [n, G, D]``; returns ``[m, n]``."""
    with full_precision(queries):
        return in_pieces(
            lambda piece, offset: _from_rows(queries[:, piece], keys, offset),
            *(queries.shape[1], rows),
            dim=1,
        ).mean(1)


def in_pieces(losses: Callable[[slice, int], Tensor], size: int, rows: int, dim: int = 0) -> Tensor:
    """Computes the losses of local rows; where there are more than ``rows``, piece by piece.

    Args:
        losses: those of a piece, whose first positive is in a given column. Pieces are computed
            again in backward.
        size: local rows.
        rows: the largest piece.
        dim: of the rows in what ``losses`` returns.
    """
    offset = dist.row_offset(size)
    if size <= rows:
        return losses(slice(size), offset)
    pieces = [
        checkpoint(losses, slice(start, start + rows), offset + start, use_reentrant=False)
        for start in range(0, size, rows)
    ]
    return torch.cat(pieces, dim)


def _from_rows(queries: Tensor, keys: Tensor, offset: int) -> Tensor:
    """Returns the loss of each row, ``[m, b, n]``."""
    logits = _similarities(queries, keys)
    positive = logits.diagonal(offset, dim1=1, dim2=3)[..., : queries.shape[1]]
    return logits.logsumexp(3) - positive.transpose(1, 2)


def _similarities(queries: Tensor, keys: Tensor) -> Tensor:
    """All dot products in one matmul, ``[m, B, n, G]``."""
    (m, b, _), (n, g, _) = queries.shape, keys.shape
    return (queries.flatten(0, 1) @ keys.flatten(0, 1).T).view(m, b, n, g)


def embedded(features: Features, needs: list[Need], space: str) -> tuple[Tensor, Tensor]:
    """Stacks embeddings of several views: local ``[m, B, D]`` and gathered ``[m, G, D]``.

    On one rank both are the same tensor.
    """
    local = torch.stack([features.embed(need, space) for need in needs])
    if dist.world_size() == 1:
        return local, local
    return local, torch.stack([features.gathered(need, space) for need in needs])


def attach_pair(towers: Mapping[str, Tower], space: Space) -> None:
    """Attaches the image and the text tower to a joint space, and uses its temperature."""
    for name in ("image", "text"):
        space.attach(name, towers[name].width)
    cast(Any, space).use_scale()
