"""The vision transformer (arXiv 2010.11929), with what self-supervised methods added to it."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from webssl_toolbox.objective import Need
from webssl_toolbox.towers import Encoding, Layer, Part, Segment, Tower

from ._common import (
    Block,
    Group,
    Layout,
    init_linears,
    join,
    join_masks,
    pack,
    published,
    refuse_fusion,
    resize_positions,
    sincos_positions,
    unpack,
)
from ._layers import layer_of_tokens, resolve
from ._patches import ARCHS, PatchEmbed


class ViT(Tower):
    """A vision transformer that encodes all views of a step in one pass.

    Views may differ in size. Kept subsets are cut out before the patch projection, so that dropped
    patches cost nothing. Parameters are named as in timm; registers (arXiv 2309.16588) have no
    position, as in DINOv2.

    Args:
        arch: a published size, ``'Ti'`` to ``'G'``; it gives what is None below. ``'g-dinov2'`` is
            DINOv2's own giant.
        patch_size: side of a patch in pixels.
        width: channels.
        depth: blocks.
        heads: attention heads.
        input_size: side of the images in pixels that the position embedding is made for.
        mlp_ratio: hidden width of the MLP over ``width``.
        ffn: ``'mlp'``, or ``'swiglu'`` as in DINOv2's giant model.
        activation: ``'gelu'`` or ``'quick_gelu'`` (OpenAI's models), of the MLP.
        registers: number of register tokens.
        layer_scale: initial LayerScale (DINOv2: 1e-5), or None for none.
        drop_path: stochastic depth of the last block; it grows linearly from 0. What is dropped is
            not computed.
        drop_path_uniform: whether all blocks have this rate, as in DINOv2.
        positions: ``'learned'``, or ``'sincos'``: fixed, as in MAE.
        pool: ``'cls'``, or ``'mean'`` of the patches; after the last norm.
        class_token: whether there is a class token.
        qkv_bias: whether queries, keys and values have a bias.
        norm_eps: of the layer norms.
        pre_norm: whether a layer norm comes before the first block, as in CLIP.
        freeze_patch_embed: whether the patch projection stays as it was drawn, which keeps training
            stable (MoCo v3, arXiv 2104.02057, section 4).
        checkpoint: whether the backward pass computes each block again, so that the forward pass
            keeps one tensor of each (arXiv 1604.06174).

    Raises:
        ValueError: the arguments contradict one another.
    """

    input_size: int
    mask_token: nn.Parameter | None

    def __init__(
        self,
        arch: str = "S",
        patch_size: int = 16,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        input_size: int = 224,
        mlp_ratio: float | None = None,
        ffn: str | None = None,
        activation: str = "gelu",
        registers: int = 0,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        drop_path_uniform: bool = False,
        positions: str = "learned",
        pool: str = "cls",
        class_token: bool = True,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        pre_norm: bool = False,
        freeze_patch_embed: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if positions not in ("learned", "sincos"):
            raise ValueError(f"positions={positions!r} is neither 'learned' nor 'sincos'")
        if pool not in ("cls", "mean"):
            raise ValueError(f"pool={pool!r} is neither 'cls' nor 'mean'")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path={drop_path} must be at least 0 and below 1")
        if pool == "cls" and not class_token:
            raise ValueError("pool='cls' needs class_token=True; or set pool='mean'")
        size = published(
            ARCHS, arch, width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio, ffn=ffn
        )
        self.width = self.token_width = width = size.width
        self.num_layers = size.depth + 1
        self.patch_size = patch_size
        self.input_size = input_size
        self.pool = pool
        self.checkpoint = checkpoint
        self.prefix = int(class_token) + registers

        self.patch_embed = PatchEmbed(patch_size, width)
        side, _ = self.patch_embed.grid(input_size, input_size)
        self.patch_embed.requires_grad_(not freeze_patch_embed)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.reg_token = nn.Parameter(torch.empty(1, registers, width)) if registers else None
        self.register_parameter("mask_token", None)
        self.pos_embed = nn.Parameter(
            torch.empty(1, int(class_token) + side**2, width), requires_grad=positions == "learned"
        )
        self.norm_pre = nn.LayerNorm(width, eps=norm_eps) if pre_norm else None
        self.blocks = nn.ModuleList(
            Block(
                width,
                size.heads,
                size.mlp_ratio,
                ffn=size.ffn,
                activation=activation,
                layer_scale=layer_scale,
                drop_path=drop_path * (1 if drop_path_uniform else i / max(size.depth - 1, 1)),
                qkv_bias=qkv_bias,
                norm_eps=norm_eps,
            )
            for i in range(size.depth)
        )
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialises as timm and DINOv2 do; fixed positions are written here, too."""
        if not self.patch_embed.proj.weight.requires_grad:  # a frozen bias would be noise
            nn.init.zeros_(self.patch_embed.get_parameter("proj.bias"))
        init_linears(self)
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.normal_(token, std=1e-6)
        if self.pos_embed.requires_grad:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        else:
            side, _ = self.patch_embed.grid(self.input_size, self.input_size)
            grid = sincos_positions(side, side, self.width)
            prefix = grid.new_zeros(self.pos_embed.shape[1] - len(grid), self.width)
            with torch.no_grad():
                self.pos_embed.copy_(torch.cat([prefix, grid])[None])

    def plan(self, needs: frozenset[Need]) -> None:
        refuse_fusion(self, needs)
        if self.mask_token is None and any(need.mask for need in needs):
            # Zeros, as in iBOT and DINOv2.
            self.mask_token = nn.Parameter(self.norm.weight.new_zeros(1, self.width))

    def num_patches(self, size: int | None = None) -> int:
        return self.patch_embed.count(size or self.input_size)

    def layer_of(self, name: str) -> int:
        module, _, rest = name.partition(".")
        if module == "blocks":
            return 1 + int(rest.partition(".")[0])
        return self.num_layers if module == "norm" else 0

    def fit(self, name: str, stored: Tensor) -> Tensor:
        if name != "pos_embed" or stored.dim() != 3 or len(stored) != 1:
            return stored
        first = self.pos_embed.shape[1] - self.num_patches()
        prefix, grid = stored[0].tensor_split([first])
        # Not a square: it has a class token, and this one none, or so.
        if not len(grid) or isqrt(len(grid)) ** 2 != len(grid):
            return stored
        size = self.patch_embed.grid(self.input_size, self.input_size)
        return torch.cat([prefix, resize_positions(grid, size)])[None]

    def forward(self, segments: list[Segment]) -> list[Encoding]:
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, segment in enumerate(segments):
            part = segment.part
            kept = () if part.keep is None else (part.keep.shape[1],)
            groups.setdefault((*part.data.shape[-2:], *kept), []).append(i)

        embedded = [self._embed([segments[i].part for i in group]) for group in groups.values()]
        layout = tuple(Group(*x.shape[:2]) for x in embedded)
        x = pack(embedded)
        if self.norm_pre is not None:
            x = self.norm_pre(x)
        for block in self.blocks:
            x = self._run(block, x, layout)
        x = self.norm(x)

        encodings: dict[int, Encoding] = {}
        for group, sequence in zip(groups.values(), unpack(x, layout), strict=True):
            rows = [segments[i].rows for i in group]
            tokens = sequence[:, self.prefix :]
            pooled = sequence[:, 0] if self.pool == "cls" else tokens.mean(1)
            pairs = zip(torch.split(pooled, rows), torch.split(tokens, rows), strict=True)
            encodings |= {i: Encoding(*pair) for i, pair in zip(group, pairs, strict=True)}
        return [encodings[i] for i in range(len(segments))]

    def layers(self, images: Tensor, indices: Sequence[int]) -> list[Layer]:
        chosen = resolve(indices, len(self.blocks))
        grid = self.patch_embed.grid(*images.shape[-2:])
        x = self._embed([Part("images", images)])
        layout = (Group(*x.shape[:2]),)
        x = pack([x])
        if self.norm_pre is not None:
            x = self.norm_pre(x)
        found: dict[int, Layer] = {}
        for i, block in enumerate(self.blocks[: max(chosen) + 1]):
            x = self._run(block, x, layout)
            if i in chosen:
                (tokens,) = unpack(self.norm(x), layout)
                found[i] = layer_of_tokens(tokens, self.prefix, self.cls_token is not None, grid)
        return [found[i] for i in chosen]

    def class_attention(self, images: Tensor) -> Tensor | None:
        if self.cls_token is None:
            return None
        x = self._embed([Part("images", images)])
        layout = (Group(*x.shape[:2]),)
        x = pack([x])
        if self.norm_pre is not None:
            x = self.norm_pre(x)
        for block in self.blocks[:-1]:
            x = block(x, layout)
        last: Any = self.blocks[-1]
        (x,) = unpack(last.norm1(x), layout)
        return last.attn.of_first(x)[:, :, self.prefix :]

    def _run(self, block: nn.Module, x: Tensor, layout: Layout) -> Tensor:
        if self.checkpoint:
            return checkpoint(block, x, layout, use_reentrant=False)
        return block(x, layout)

    def _embed(self, parts: list[Part]) -> Tensor:
        """Returns the tokens ``[B, prefix + patches, width]`` of views that share a shape."""
        images = join([part.data for part in parts])
        grid = self.patch_embed.grid(*images.shape[-2:])
        first = self.pos_embed.shape[1] - self.num_patches()  # the class token has a position
        positions = resize_positions(self.pos_embed[0, first:], grid)
        keep = None
        if parts[0].keep is not None:
            keep = join([part.keep for part in parts if part.keep is not None])
            positions = F.embedding(keep, positions)

        x = self.patch_embed(images, keep)
        mask = join_masks(parts)
        if mask is not None:
            if self.mask_token is None:
                raise ValueError("a view is masked, but no need given to ViT.plan() names a mask")
            mask = mask if keep is None else mask.gather(1, keep)
            x = torch.where(mask[..., None], self.mask_token.to(x.dtype), x)
        x = x + positions

        prefix = []
        if self.cls_token is not None:
            prefix.append(self.cls_token + self.pos_embed[:, :1])
        if self.reg_token is not None:
            prefix.append(self.reg_token)
        return torch.cat([*(token.expand(len(x), -1, -1) for token in prefix), x], dim=1)
