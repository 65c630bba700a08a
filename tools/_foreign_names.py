"""Names that other projects give to the weights of towers that are here, too; and their shapes.

DINO, DINOv2 (its blocks in chunks or not), Web-SSL, MAE and timm name a vision transformer much as
``ViT`` does; CLIP (OpenAI's and open_clip's) and transformers in ways of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import isqrt

import torch
from torch import Tensor

CLIP_WORDS = 49408  # of CLIP; here, a mask token follows
NAMES = "DINO, DINOv2, MAE, timm's and transformers' ViT, or CLIP"  # that are known, for messages
IMAGE, TEXT, JOINT = "towers.image.", "towers.text.", "spaces.joint."

# Applied to each name, in this order.
_RULES = [
    (re.compile(pattern), new)
    for pattern, new in (
        # What wraps a model: data parallelism, compilation, the attribute that holds it.
        (r"(^|\.)(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)", ""),
        (r"^\.", ""),
        (r"^(model|backbone|vit|dinov2|dinov2_with_registers)\.(?=\w)", ""),
        # CLIP
        (r"^text\.(?=transformer|token_emb|positional|ln_final|text_projection)", ""),
        (r"^transformer\.resblocks\.", f"{TEXT}blocks."),
        (r"^(token_embedding\.weight|positional_embedding|ln_final\.\w+)$", rf"{TEXT}\1"),
        (r"^text_projection$", f"{JOINT}project.text.weight"),
        (r"^visual\.proj$", f"{JOINT}project.image.weight"),
        (r"^logit_scale$", f"{JOINT}logit_scale"),
        (r"^visual\.(trunk\.)?", IMAGE),
        (r"^(towers\.image\.)transformer\.resblocks\.", r"\1blocks."),
        (r"^(towers\.image\.)class_embedding$", r"\1cls_token"),
        (r"^(towers\.image\.)positional_embedding$", r"\1pos_embed"),
        (r"^(towers\.image\.)ln_pre\.", r"\1norm_pre."),
        (r"^(towers\.image\.)ln_post\.", r"\1norm."),
        (r"\.attn\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
        (r"\.attn\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.c_fc\.", ".mlp.fc1."),
        (r"\.mlp\.c_proj\.", ".mlp.fc2."),
        (r"(\.blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
        (r"(\.blocks\.\d+)\.ls_([12])\.", r"\1.ls\2."),
        # transformers
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
        (r"^encoder\.layer\.", "blocks."),
        (r"^layernorm\.", "norm."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.weights_in\.", ".mlp.fc1."),
        (r"\.mlp\.weights_out\.", ".mlp.fc2."),
        # DINO, DINOv2 and Web-SSL. In blocks.<chunk>.<block>, the block counts from the first.
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
        (r"^register_tokens$", "reg_token"),
        (r"\.mlp\.w12\.", ".mlp.fc1."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
        (r"^(dino_)?head\.(mlp\.|last_layer\.)", r"spaces.proto.\2"),
        (r"^ibot_head\.", "spaces.patches."),
        (r"\.last_layer\.(weight_v|parametrizations\.weight\.original1)$", ".last_layer.weight"),
        (r"\.last_layer\.(weight_g|parametrizations\.weight\.original0)$", ".last_layer.gain"),
        # All vision transformers
        (r"^(cls_token|reg_token|mask_token|pos_embed|patch_embed\.|blocks\.|norm(_pre)?\.)",
         rf"{IMAGE}\1"),
    )
]  # fmt: skip

# Parts that are one matrix here.
_PARTS = {"attn.qkv": ("attn.query", "attn.key", "attn.value"), "mlp.fc1": ("mlp.w1", "mlp.w2")}

Found = dict[str, tuple[tuple[str, ...], Tensor]]  # by the new name: the old ones, and the tensor


def renamed(weights: Mapping[str, Tensor]) -> Found:
    """Names and shapes weights as a model here has them.

    Args:
        weights: of another project.

    Returns:
        What has a name here.

    Raises:
        ValueError: two of them get the same name.
    """
    decodes = any("decoder_embed" in name for name in weights)  # then the mask token is MAE's
    found: Found = {}
    for old, value in weights.items():
        name = old
        for pattern, new in _RULES:
            name = pattern.sub(new, name)
        if not name.startswith(("towers.", "spaces.")) or (decodes and "mask_token" in name):
            continue
        if name in found:
            raise ValueError(f"{found[name][0][0]} and {old} would both be {name}: remove one")
        found[name] = (old,), value
    _join_parts(found)
    _shape_vit(found)
    _shape_clip(found)
    return found


def _join_parts(found: Found) -> None:
    for name in list(found):
        for joined, parts in _PARTS.items():
            first = re.fullmatch(rf"(.*)\.{parts[0]}\.(weight|bias)", name)
            names = [f"{first[1]}.{part}.{first[2]}" for part in parts] if first else []
            if first and all(part in found for part in names):
                taken = [found.pop(part) for part in names]
                old, value = tuple(o for (o,), _ in taken), torch.cat([v for _, v in taken])
                found[f"{first[1]}.{joined}.{first[2]}"] = old, value


def _shape_vit(found: Found) -> None:
    """Brings tokens, positions and patches of a ViT into their shapes."""
    for name in (f"{IMAGE}cls_token", f"{IMAGE}reg_token", f"{IMAGE}pos_embed"):
        # CLIP's lack a dimension or two.
        _change(found, name, lambda x: x.reshape(1, -1, x.shape[-1]))
    if f"{IMAGE}cls_token" in found:
        _change(found, f"{IMAGE}pos_embed", _with_class_position)
    if f"{IMAGE}cls_token" in found and f"{IMAGE}conv1.weight" in found:
        found[f"{IMAGE}patch_embed.proj.weight"] = found.pop(f"{IMAGE}conv1.weight")
    patches = found.get(f"{IMAGE}patch_embed.proj.weight")
    if patches and f"{IMAGE}patch_embed.proj.bias" not in found:  # CLIP has none
        found[f"{IMAGE}patch_embed.proj.bias"] = (), patches[1].new_zeros(len(patches[1]))


def _shape_clip(found: Found) -> None:
    """Turns projections over, and gives the embedding of words a row for the mask token."""
    for name in ("image", "text"):
        _change(found, f"{JOINT}project.{name}.weight", torch.t)
    _change(found, f"{JOINT}logit_scale", lambda x: x.reshape(1))
    pool = found.get(f"{IMAGE}attnpool.c_proj.weight")
    if pool and f"{JOINT}project.text.weight" in found:  # a ResNet ends in the joint space
        eye = torch.eye(len(pool[1]), dtype=pool[1].dtype)
        found[f"{JOINT}project.image.weight"] = (), eye
    _change(found, f"{TEXT}token_embedding.weight", _with_mask_word)


def _change(found: Found, name: str, change: Callable[[Tensor], Tensor]) -> None:
    if name in found:
        old, value = found[name]
        found[name] = old, change(value)


def _with_class_position(positions: Tensor) -> Tensor:
    """Gives the class token the position that timm leaves out where there are registers."""
    if isqrt(positions.shape[1]) ** 2 != positions.shape[1]:
        return positions
    return torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)


def _with_mask_word(words: Tensor) -> Tensor:
    if len(words) != CLIP_WORDS:
        return words
    return torch.cat([words, words.float().mean(0, keepdim=True).to(words.dtype)])
