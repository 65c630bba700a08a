"""MAE's decoder: a shallow transformer that fills in what an encoder did not see."""

from __future__ import annotations

from collections.abc import Hashable
from math import isqrt

import torch
from torch import Tensor, nn

from webssl_toolbox import Encoding, Segment, Space
from webssl_toolbox.seeding import current_scope, seeded
from webssl_toolbox.towers import Part

from ._common import (
    Block,
    Group,
    keys,
    real_tokens,
    sincos_line,
    sincos_positions,
)


class MaskDecoder(Space):
    """Completes encodings of kept patches, and of kept words (MAE, arXiv 2111.06377, section 3).

    Encoded tokens go to their places, a learned mask token to all others; positions are fixed sines
    and cosines. The pooled encoding comes first, as MAE's class token does. An encoding of an image
    and a text (M3AE, arXiv 2205.14204) is decoded in one sequence, each kind with an embedding.

    Args:
        dim: channels.
        depth: blocks; 8 in both papers.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over ``dim``.
    """

    def __init__(
        self, dim: int = 512, depth: int = 8, heads: int = 16, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        self.dim = dim
        self.embed = nn.ModuleDict()
        self.mask_token = nn.ParameterDict()
        self.kind = nn.ParameterDict()
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        _initialise(self.blocks)
        self._scope = current_scope()
        self._patches = 0
        self._positions: dict[Hashable, Tensor] = {}

    def attach(self, tower: str, width: int) -> None:
        """Creates the map of ``tower``'s tokens, initialised by its own name."""
        if tower not in self.embed:
            with seeded(f"embed.{tower}", within=self._scope):
                self.embed[tower] = nn.Linear(width, self.dim)
                _initialise(self.embed[tower])

    def fill(self, kind: str, patches: int = 0) -> None:
        """Creates the mask token of ``'image'`` or ``'text'``; objectives call it in ``setup``.

        Args:
            kind: of the places that an objective wants filled.
            patches: of a whole image.

        Raises:
            ValueError: another objective fills images of another number of patches.
        """
        if patches and self._patches not in (0, patches):
            raise ValueError(
                f"a MaskDecoder fills images of {self._patches} patches for one objective, and of "
                f"{patches} for another; give one of them a space of its own"
            )
        self._patches = self._patches or patches
        self._create("mask_token", kind)
        if len(self.mask_token) > 1:  # from now on they must be told apart
            for name in self.mask_token:
                self._create("kind", name)

    def _create(self, group: str, name: str) -> None:
        parameters: nn.ParameterDict = getattr(self, group)
        if name not in parameters:
            with seeded(f"{group}.{name}", within=self._scope):
                parameters[name] = nn.Parameter(nn.init.normal_(torch.empty(1, self.dim), std=0.02))

    def holds(self, tower: str) -> bool:
        """Returns whether encodings of ``tower`` can be completed."""
        return tower in self.embed

    def forward(self, x: tuple[Encoding, Segment], tower: str) -> tuple[Tensor, ...]:
        """Completes an encoding of the given segment.

        Returns:
            For each part ``[B, T, dim]``: a token for every patch, or for every column of the ids.
        """
        encoding, segment = x
        embed = self.embed[tower]
        seen = encoding.sizes or (encoding.tokens.shape[1],)
        tokens = embed(encoding.tokens).split(seen, dim=1)
        valid = [None] * len(seen) if encoding.valid is None else encoding.valid.split(seen, 1)
        parts = [self._complete(*part) for part in zip(segment.parts, tokens, valid, strict=True)]
        sequence = torch.cat([embed(encoding.pooled)[:, None], *parts], dim=1)
        rows, length, _ = sequence.shape
        sizes = [part.shape[1] for part in parts]
        layout = (Group(rows, length, keys(real_tokens(segment, sizes, encoded=False))),)
        stream = sequence.flatten(0, 1)
        for block in self.blocks:
            stream = block(stream, layout)
        return self.norm(stream).view_as(sequence)[:, 1:].split(sizes, dim=1)

    def _complete(self, part: Part, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Returns ``tokens [B, K, dim]`` in their places ``[B, T, dim]``, others masked."""
        kind = "text" if part.data.ndim == 2 else "image"
        total = part.data.shape[1] if kind == "text" else self._patches
        whole = tokens
        if part.keep is not None:
            # Padding is written to a place behind the last, which is cut off.
            place = part.keep if valid is None else torch.where(valid, part.keep, total)
            rows = len(tokens), total + (valid is not None), self.dim
            hidden = self.mask_token[kind].to(tokens.dtype).expand(rows)
            whole = hidden.scatter(1, place[..., None].expand_as(tokens), tokens)[:, :total]
        whole = whole + self._position(kind, total, whole)
        return whole + self.kind[kind].to(whole.dtype) if kind in self.kind else whole

    def _position(self, kind: str, total: int, like: Tensor) -> Tensor:
        key = (kind, total, like.device, like.dtype)
        if key not in self._positions:
            side = isqrt(total)
            line, dim = kind == "text", self.dim
            table = sincos_line(total, dim) if line else sincos_positions(side, side, dim)
            self._positions[key] = table.to(like)
        return self._positions[key]


def _initialise(module: nn.Module) -> None:
    """Draws matrices as MAE does: Xavier's uniform, and biases of zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
