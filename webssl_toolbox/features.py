"""Plan the encodings, run each tower once, and memoise what objectives derive from them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import dist
from .objective import Need, Objective
from .running_stats import unchanged
from .schedules import Schedule
from .spaces import Space
from .towers import Encoding, Part, Segment, Tower

Plan = dict[str, tuple[Need, ...]]


def plan(objectives: Iterable[Objective]) -> Plan:
    """Returns the needs of each tower, each once, in an order that does not depend on hashing."""
    found: dict[str, dict[Need, None]] = {}
    for objective in objectives:
        for need in sorted(objective.needs(), key=repr):
            found.setdefault(need.tower, {})[need] = None
    return {tower: tuple(needs) for tower, needs in found.items()}


def encode(
    plan: Plan, towers: Mapping[str, Tower], inputs: Mapping[str, Tensor], chunks: int = 1
) -> dict[Need, Encoding]:
    """Calls each tower once, with all its segments (or once a chunk, see ``_in_chunks``)."""
    encodings: dict[Need, Encoding] = {}
    for name, needs in plan.items():
        segments = [segment(need, inputs) for need in needs]
        run = towers[name] if chunks == 1 else _in_chunks(towers[name], chunks)
        encodings.update(zip(needs, run(segments), strict=True))
    return encodings


def segment(need: Need, inputs: Mapping[str, Tensor]) -> Segment:
    """Collects the tensors of one need."""
    parts = tuple(
        Part(
            view,
            inputs[view],
            length=inputs.get(f"{view}.length"),
            keep=inputs[keep] if keep else None,
            mask=inputs[mask] if mask else None,
            kept=inputs.get(f"{keep}.length") if keep else None,
            present=inputs.get(f"{view}.present"),
        )
        for view, keep, mask in need.parts
    )
    return Segment(need, parts)


class Features:
    """The encodings of one step, as objectives see them.

    Derived values are computed when first asked for and kept, so that CLIP, multi-view and
    neighbour losses project and gather an encoding once.
    """

    def __init__(
        self,
        encodings: Mapping[Need, Encoding],
        spaces: Mapping[str, Space],
        inputs: Mapping[str, Tensor],
        step: int = 0,
        total: int = 1,
    ) -> None:
        self._encodings, self._spaces, self._inputs = encodings, spaces, inputs
        self._now = step, total
        self._memo: dict[Hashable, Any] = {}

    def __getitem__(self, need: Need) -> Encoding:
        return self._encodings[need]

    def input(self, name: str) -> Tensor:
        """Returns an input that is not encoded: ``'text_mlm.target'``, ``'text.caption'`` ..."""
        if name not in self._inputs:
            view = name.partition(".")[0]
            raise ValueError(
                f"an objective reads {name!r}, which the view {view!r} does not make; check the "
                f"last step of train_dataloader.views.{view}"
            )
        return self._inputs[name]

    def space(self, name: str) -> Any:
        """Returns a shared space, to map tokens of one's own choice."""
        return self._spaces[name]

    def at(self, schedule: Schedule) -> float:
        """Returns the value of a schedule in this step."""
        return schedule(*self._now)

    def segment(self, need: Need) -> Segment:
        """Returns what the tower was given for ``need``."""
        return segment(need, self._inputs)

    def embed(self, need: Need, space: str) -> Tensor:
        """Returns the pooled encoding in ``space``, ``[B, dim]``; unit length in a JointSpace."""
        return self.once((need, space), lambda: self._spaces[space](self[need].pooled, need.tower))

    def gathered(self, need: Need, space: str) -> Tensor:
        """Returns ``embed`` over all ranks, with gradient, ``[world_size * B, dim]``."""
        return self.once((need, space, "gathered"), lambda: dist.gather(self.embed(need, space)))

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Returns ``compute()`` of whoever asks first with this key in this step."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]


def spread(x: Tensor) -> Tensor:
    """Standard deviation of rows ``[B, D]`` at unit length, for logging.

    1 less its square is the mean cosine of two rows: about 1 when they spread evenly, it falls
    towards 0 in a collapse.
    """
    return F.normalize(x.detach().float(), dim=1).std(0).norm()


def _in_chunks(tower: Tower, chunks: int) -> Any:
    """Runs a tower on row chunks under checkpointing: the full batch in a chunk's memory.

    Losses see the whole batch, so this equals it exactly, contrastive terms included. BatchNorm
    statistics are a chunk's, as under any accumulation. Autocast and random state are replayed by
    ``checkpoint``.
    """

    def contexts() -> tuple[Any, Any]:
        return nullcontext(), unchanged(tower)  # of the forward, and of its recomputation

    def run(segments: list[Segment]) -> list[Encoding]:
        pieces: list[list[Encoding]] = []
        count = min(chunks, segments[0].rows)
        for i in range(count):
            piece = [_rows(s, i, count) for s in segments]
            pieces.append(checkpoint(tower, piece, use_reentrant=False, context_fn=contexts))
        return [_join([p[i] for p in pieces]) for i in range(len(segments))]

    return run


def _rows(segment: Segment, index: int, chunks: int) -> Segment:
    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.tensor_split(chunks)[index]

    parts = tuple(
        Part(
            p.view,
            p.data.tensor_split(chunks)[index],
            *map(cut, (p.length, p.keep, p.mask, p.kept, p.present)),
        )
        for p in segment.parts
    )
    return Segment(segment.need, parts)


def _join(pieces: list[Encoding]) -> Encoding:
    # A text tower cuts at a chunk's longest caption, so chunks may differ in length.
    longest = max(p.tokens.shape[1] for p in pieces)
    tokens = [F.pad(p.tokens, (0, 0, 0, longest - p.tokens.shape[1])) for p in pieces]
    valid = None
    if any(p.valid is not None for p in pieces) or len({p.tokens.shape[1] for p in pieces}) > 1:
        everything = [
            p.tokens.new_ones(p.tokens.shape[:2], dtype=torch.bool) if p.valid is None else p.valid
            for p in pieces
        ]
        valid = torch.cat([F.pad(v, (0, longest - v.shape[1])) for v in everything])
    return Encoding(
        torch.cat([p.pooled for p in pieces]), torch.cat(tokens), valid, pieces[0].sizes
    )
