"""One transformer for the patches of an image and the words of its caption (M3AE)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox.objective import Need
from webssl_toolbox.towers import Encoding, Part, Segment, Tower, is_text

from ._clip_bpe import CLIP_VOCABULARY, CLIPTokenizer
from ._common import (
    Block,
    Group,
    init_linears,
    keys,
    pack,
    published,
    real_tokens,
    sincos_line,
    sincos_positions,
    unpack,
)
from ._patches import ARCHS, PatchEmbed


class Fusion(Tower):
    """Encodes images, captions, or both in one sequence behind a class token.

    Geng et al. 2022, "Multimodal Masked Autoencoders Learn Transferable Representations" (M3AE,
    arXiv 2205.14204), section 3: fixed sine-cosine positions, an embedding of each kind, and only
    the kept patches and tokens in the sequence. Rows of a batch may lack the image or the caption;
    no token attends to what is not there.

    Args:
        arch: a published size, ``'Ti'`` to ``'G'``; it gives what is None below.
        patch_size: side of a patch in pixels.
        width: channels.
        depth: blocks.
        heads: attention heads.
        input_size: side of the images in pixels.
        mlp_ratio: hidden width of the MLP over ``width``.
        context_length: the most tokens of a caption.
        vocab_size: ids of the tokenizer; fewer than CLIP's spell rare words in more pieces.
    """

    input_size: int
    patch_positions: Tensor
    word_positions: Tensor

    def __init__(
        self,
        arch: str = "S",
        patch_size: int = 16,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        input_size: int = 224,
        mlp_ratio: float | None = None,
        context_length: int = 64,
        vocab_size: int = CLIP_VOCABULARY,
    ) -> None:
        super().__init__()
        size = published(ARCHS, arch, width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio)
        self.width = self.token_width = width = size.width
        self.patch_size, self.input_size = patch_size, input_size
        self.tokenizer = CLIPTokenizer(context_length, vocab_size)
        self.patch_embed = PatchEmbed(patch_size, width)
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.image_kind = nn.Parameter(torch.empty(1, width))
        self.text_kind = nn.Parameter(torch.empty(1, width))
        self.blocks = nn.ModuleList(
            Block(width, size.heads, size.mlp_ratio) for _ in range(size.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        side, _ = self.patch_embed.grid(input_size, input_size)
        self.register_buffer(
            "patch_positions", sincos_positions(side, side, width), persistent=False
        )
        self.register_buffer("word_positions", sincos_line(context_length, width), persistent=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialises as ``ViT`` does; kinds and words as its tokens."""
        init_linears(self)
        for token in (self.cls_token, self.image_kind, self.text_kind, self.token_embedding.weight):
            nn.init.normal_(token, std=0.02)

    def plan(self, needs: frozenset[Need]) -> None:
        views = {view for need in needs for view, _, _ in need.parts}
        texts = {view for view in views if is_text(view)}
        self.patch_embed.requires_grad_(views > texts)
        self.image_kind.requires_grad_(views > texts)
        self.token_embedding.requires_grad_(bool(texts))
        self.text_kind.requires_grad_(bool(texts))
        for need in needs:
            if any(mask for _, _, mask in need.parts):
                raise ValueError(
                    f"Fusion drops patches and words, it does not mask them, but {need} asks for "
                    "it; name the kept ones in keep"
                )

    def num_patches(self, size: int | None = None) -> int:
        return self.patch_embed.count(size or self.input_size)

    def forward(self, segments: list[Segment]) -> list[Encoding]:
        embedded = [[self._embed(part) for part in segment.parts] for segment in segments]
        sizes = [tuple(part.shape[1] for part in parts) for parts in embedded]
        sequences = [
            torch.cat([self.cls_token.expand(len(parts[0]), -1, -1), *parts], dim=1)
            for parts in embedded
        ]
        valid = [real_tokens(*pair, encoded=True) for pair in zip(segments, sizes, strict=True)]
        layout = tuple(
            Group(len(x), x.shape[1], keys(real)) for x, real in zip(sequences, valid, strict=True)
        )
        stream = pack(sequences)
        for block in self.blocks:
            stream = block(stream, layout)
        encoded = unpack(self.norm(stream), layout)
        return [
            Encoding(x[:, 0], x[:, 1:], real, size)
            for x, real, size in zip(encoded, valid, sizes, strict=True)
        ]

    def _embed(self, part: Part) -> Tensor:
        """Returns the kept patches or words of a part, ``[B, K, width]``."""
        if part.data.ndim == 4:
            positions = self.patch_positions
            x = self.patch_embed(part.data, part.keep) + self.image_kind
        else:
            ids = part.data if part.keep is None else part.data.gather(1, part.keep)
            positions = self.word_positions[: part.data.shape[1]]
            x = self.token_embedding(ids) + self.text_kind
        return x + (positions if part.keep is None else F.embedding(part.keep, positions))
