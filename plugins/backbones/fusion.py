"""One transformer for the patches of an image and the words of its caption (M3AE)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox.objective import Need
from webssl_toolbox.towers import Encoding, Part, Segment, Tower, is_text

from ._clip_bpe import CLIP_VOCABULARY, CLIPTokenizer
from ._common import (
    Block,
    Group,
    join_real,
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
    they are encoded apart, and pay for what they have.

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
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for token in (self.cls_token, self.image_kind, self.text_kind, self.token_embedding.weight):
            nn.init.normal_(token, std=0.02)

    def plan(self, needs: frozenset[Need]) -> None:
        views = {view for need in needs for view, _, _ in need.parts}
        images = [self.patch_embed.proj.weight, self.patch_embed.proj.bias, self.image_kind]
        texts = [self.token_embedding.weight, self.text_kind]
        for parameters, used in (
            (images, any(not is_text(view) for view in views)),
            (texts, any(is_text(view) for view in views)),
        ):
            for parameter in parameters:
                assert parameter is not None
                parameter.requires_grad_(used)
        for need in needs:
            if any(mask for _, _, mask in need.parts):
                raise ValueError(
                    f"Fusion drops patches and words, it does not mask them, but {need} asks for "
                    "it; name the kept ones in keep"
                )

    def num_patches(self, size: int | None = None) -> int:
        size = size or self.input_size
        height, width = self.patch_embed.grid(size, size)
        return height * width

    def forward(self, segments: list[Segment]) -> list[Encoding]:
        embedded = [[self._embed(part) for part in segment.parts] for segment in segments]
        sizes = [tuple(part.shape[1] for part in parts) for parts in embedded]
        sequences = [
            torch.cat([self.cls_token.expand(len(parts[0]), -1, -1), *parts], dim=1)
            for parts in embedded
        ]
        valid = [_valid(segment, size) for segment, size in zip(segments, sizes, strict=True)]
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


def _valid(segment: Segment, sizes: Sequence[int]) -> Tensor | None:
    """Returns bool ``[B, T]``, false on padding and on what a row lacks; None for all tokens."""
    real = []
    for part, size in zip(segment.parts, sizes, strict=True):
        count = part.length if part.keep is None else part.kept
        real.append(real_tokens(count, part.present, size, part.data.device))
    return join_real(real, segment.rows, sizes)
