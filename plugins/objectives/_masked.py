"""What the objectives that fill in hidden places share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from webssl_toolbox import Features, Need, Space, Tower, dist


def masked_need(tower: str, view: str | None, keep: str, text: str | None) -> Need:
    """Returns the encoding of an image's kept patches, of a text's kept tokens, or of both."""
    if text is None:
        assert view is not None
        return Need(tower, view, keep)
    kept = f"{text}.keep"  # from the view step DropTokens
    return Need(tower, text, kept) if view is None else Need(tower, (view, text), (keep, kept))


def attach_decoder(
    towers: Mapping[str, Tower], need: Need, space: Space, kind: str, patches: int = 0
) -> None:
    """Lets a decoder take the tokens of a need's tower, and fill places of ``kind``.

    Raises:
        ValueError: pooled encodings are not as wide as tokens, so that one map cannot take both.
    """
    tower, decoder = towers[need.tower], cast(Any, space)
    if tower.width != tower.token_width:
        raise ValueError(
            f"tower {need.tower!r} pools tokens of {tower.token_width} channels to {tower.width}, "
            "but a decoder reads both by one map; take a tower that keeps the width"
        )
    decoder.attach(need.tower, tower.token_width)
    decoder.fill(kind, patches)


def completed(features: Features, need: Need, space: str) -> dict[str, Tensor]:
    """Returns the decoded places of each view of ``need``, ``{view: [B, T, dim]}``.

    Objectives that read the same encoding share one pass of the decoder.
    """
    parts = features.once(
        (need, space, "completed"),
        lambda: features.space(space)((features[need], features.segment(need)), need.tower),
    )
    return dict(zip((view for view, _, _ in need.parts), parts, strict=True))


def mean_over_rows(rows: Tensor, present: Tensor | None) -> Tensor:
    """Averages ``[B]`` over the rows of all ranks that are present (bool ``[B]`` on the CPU)."""
    if present is None:
        return rows.mean()
    chosen = present.to(rows, non_blocking=True)
    return dist.mean((rows * chosen).sum(), chosen.sum())


def hidden_places(keep: Tensor, total: int) -> Tensor:
    """Returns the places that ``keep [B, K]`` leaves out, ascending, ``[B, total - K]``."""
    hidden = torch.ones(len(keep), total, dtype=torch.uint8, device=keep.device)
    hidden.scatter_(1, keep, 0)
    # A sort, since `nonzero` would make the host wait for the number of its results.
    return hidden.argsort(dim=1, descending=True, stable=True)[:, : total - keep.shape[1]]


def pick(tokens: Tensor, places: Tensor) -> Tensor:
    """Picks ``places [B, M]`` of ``tokens [B, T, C]``; ``[B, M, C]``."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))
