"""The tower protocol: what goes into an encoder and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .objective import Need


@dataclass(frozen=True)
class Part:
    """One view of a segment.

    Attributes:
        view: its name.
        data: float images ``[B, 3, H, W]``, or int64 token ids ``[B, L]`` padded on the right.
        length: int64 ``[B]`` on the CPU, valid tokens of each row; None for images.
        keep: int64 ``[B, K]``, the patches or tokens to encode, ascending; None for all.
        mask: bool ``[B, N]``, those to replace by the mask token; None for none.
        kept: int64 ``[B]`` on the CPU, how many of a row's ``keep`` count; None for all of them.
        present: bool ``[B]`` on the CPU, false where a row lacks this view; None for none.
    """

    view: str
    data: Tensor
    length: Tensor | None = None
    keep: Tensor | None = None
    mask: Tensor | None = None
    kept: Tensor | None = None
    present: Tensor | None = None


@dataclass(frozen=True)
class Segment:
    """The tensors of one need: a single part, or several for a tower that fuses views."""

    need: Need
    parts: tuple[Part, ...]

    @property
    def part(self) -> Part:
        """The only part."""
        (part,) = self.parts
        return part

    @property
    def rows(self) -> int:
        """The batch size."""
        return self.parts[0].data.shape[0]


@dataclass(frozen=True)
class Encoding:
    """What a tower makes of a segment.

    Attributes:
        pooled: ``[B, tower.width]``.
        tokens: ``[B, T, tower.token_width]``: patches (without class token and registers), words,
            or both in the order of the parts.
        valid: bool ``[B, T]``, false on padding; None where all tokens count.
        sizes: tokens of each part, for a tower that fuses several.
    """

    pooled: Tensor
    tokens: Tensor
    valid: Tensor | None = None
    sizes: tuple[int, ...] = ()


class Layer(NamedTuple):
    """What one block of a ViT, or one stage of a convnet, makes of images.

    Attributes:
        pooled: ``[B, D]``, the class token; the mean of the map where there is none.
        map: ``[B, D, H, W]``, patches or positions.
    """

    pooled: Tensor
    map: Tensor


class Tower(nn.Module):
    """An encoder. ``forward`` is called once a step with all segments; batching is its business.

    An argument ``pretrained`` names initial weights, and has a default: a model whose weights come
    from a checkpoint is built without it.

    Attributes:
        width: channels of ``Encoding.pooled``.
        token_width: channels of ``Encoding.tokens``.
        input_size: side of the images in pixels, for towers that take images.
        tokenizer: ids <-> text, for towers that take text.
        num_layers: what ``layer_of`` gives behind the last block; 0 where layers are not counted.
    """

    width: int
    token_width: int
    input_size: int | None = None
    tokenizer: Any = None
    num_layers: int = 0

    def plan(self, needs: frozenset[Need]) -> None:
        """Creates or freezes what no need uses (mask token, pooling head).

        Raises:
            ValueError: the tower cannot serve a need (kept patches in a convnet).
        """

    def forward(self, segments: list[Segment]) -> list[Encoding]:
        """Returns one encoding for each segment, in order."""
        raise NotImplementedError

    def num_patches(self, size: int | None = None) -> int:
        """Returns the number of patches of a ``size`` x ``size`` image (default: input_size)."""
        raise ValueError(f"{type(self).__name__} has no patches, so views of it cannot be masked")

    def class_attention(self, images: Tensor) -> Tensor | None:
        """Returns what the class token attends to in the last block, or None without one.

        Optional: for pictures.

        Args:
            images: ``[B, 3, S, S]``.

        Returns:
            ``[B, heads, patches]``; what is left to 1 goes to the class token and registers.
        """
        return None

    def layers(self, images: Tensor, indices: Sequence[int]) -> list[Layer]:
        """Returns what chosen blocks or stages give, each through a ViT's last norm; with gradient.

        Optional: for probes, and for heads that read several layers.

        Args:
            images: ``[B, 3, H, W]``, of any height and width that a patch divides.
            indices: of blocks or stages, in any order; negative ones count from the last.
        """
        raise ValueError(f"{type(self).__name__} has no layers to choose from; use its last output")

    def layer_of(self, name: str) -> int:
        """Returns the layer of a parameter: 0 for the embedding, 1 for the first block, and so on.

        Optional: ``optim_wrapper.layer_decay`` needs it.
        """
        raise NotImplementedError

    def fit(self, name: str, stored: Tensor) -> Tensor:
        """Returns a stored tensor, of another shape than its own, as this tower would have it.

        Optional: positions for another ``input_size``. What cannot be fitted stays as it is.
        """
        return stored


def is_text(view: str) -> bool:
    """Tells a view of captions by its name: ``text``, ``text_aug`` ..."""
    return view.startswith("text")


def refuse_patches(tower: Tower, needs: frozenset[Need]) -> None:
    """Raises ValueError where a need keeps or masks patches; for towers that have none."""
    for need in needs:
        if need.keep or need.mask:
            raise ValueError(
                f"{type(tower).__name__} cannot keep or mask patches, but {need} asks for it; "
                "use a ViT, or an objective without masks"
            )


def encode_batch(tower: Tower, data: Tensor, length: Tensor | None = None) -> Encoding:
    """Encodes one plain batch outside training: images, or ids with their lengths."""
    need = Need("", "batch")
    with torch.inference_mode():
        (encoding,) = tower([Segment(need, (Part("batch", data, length),))])
    return encoding
