"""BERT's encoder (Devlin et al. 2019, arXiv 1810.04805), over CLIP's tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ._captions import CaptionTower
from ._clip_bpe import CLIP_VOCABULARY
from ._common import Block, Layout, published

NORM_EPS = 1e-12


@dataclass(frozen=True)
class Arch:
    """Sizes of a published model; each head has 64 channels."""

    width: int
    depth: int
    heads: int


ARCHS = {"base": Arch(768, 12, 12), "large": Arch(1024, 24, 16)}  # section 3


class PostNormBlock(Block):
    """A transformer block that normalises sums, as the original one did (arXiv 1706.03762)."""

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.norm1(x + self.attn(x, layout))
        return self.norm2(x + self.mlp(x))


class BERT(CaptionTower):
    """BERT's bidirectional, post-norm transformer as a text tower, without dropout.

    Ids are CLIP's, so start and end take the places of ``[CLS]`` and ``[SEP]``. A caption is one
    sentence: the embedding of its type, one row for all tokens, is part of the positions.

    Args:
        arch: ``'base'`` or ``'large'``; it gives what is None below.
        width: channels.
        depth: blocks.
        heads: attention heads.
        context_length: the most tokens of a caption.
        pool: ``'cls'``, the first token through BERT's pooler (for objectives that read tokens
            alone, choose another: the pooler would have no gradient); ``'mean'`` of all; or
            ``'eot'``, the last.
        vocab_size: ids of the tokenizer; fewer than CLIP's spell rare words in more pieces.

    Raises:
        ValueError: the arguments contradict one another.
    """

    def __init__(
        self,
        arch: str = "base",
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        context_length: int = 77,
        pool: str = "cls",
        vocab_size: int = CLIP_VOCABULARY,
    ) -> None:
        size = published(ARCHS, arch, width=width, depth=depth, heads=heads)
        super().__init__(size.width, context_length, vocab_size, causal=False, pool=pool)
        self.norm = nn.LayerNorm(size.width, eps=NORM_EPS)
        self.blocks = nn.ModuleList(
            PostNormBlock(size.width, size.heads, norm_eps=NORM_EPS) for _ in range(size.depth)
        )
        self.pooler = nn.Linear(size.width, size.width) if pool == "cls" else None
        self.init_weights()

    def init_weights(self) -> None:
        """Draws all matrices from a normal of deviation 0.02, cut at two deviations, as BERT."""
        nn.init.trunc_normal_(self.positional_embedding, std=0.02, a=-0.04, b=0.04)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def encode(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, layout)
        return x

    def head(self, ends: Tensor) -> Tensor:
        return ends if self.pooler is None else self.pooler(ends).tanh()
