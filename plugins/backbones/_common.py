"""Transformer blocks over one packed stream of tokens.

A step's views differ in size (global and local crops, kept subsets, captions). Here all tokens of
all views lie in one ``[total, width]`` tensor; linear layers, norms and residuals see just that.
Attention alone looks at the layout: it runs once for each group of rows of equal length.

Parameters are named as in timm (``blocks.0.attn.qkv.weight``), so its checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox.compat import attention
from webssl_toolbox.registry import nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from webssl_toolbox.objective import Need
    from webssl_toolbox.towers import Part, Segment, Tower

    Arch = TypeVar("Arch", bound=DataclassInstance)


@dataclass(frozen=True)
class Group:
    """Consecutive rows of the stream that share a length.

    Attributes:
        rows: sequences in the group.
        length: tokens of each.
        mask: bool ``[rows, 1, 1, length]``, false on keys to ignore; None where all count.
    """

    rows: int
    length: int
    mask: Tensor | None = None


Layout = tuple[Group, ...]


def join(tensors: list[Tensor]) -> Tensor:
    """Concatenates along the rows; one tensor stays itself."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def join_masks(parts: list[Part]) -> Tensor | None:
    """Joins the patch masks of views of one size; those without one mask nothing.

    Returns:
        Bool ``[B, N]``, or None where no view has a mask.
    """
    masks = [part.mask for part in parts if part.mask is not None]
    if not masks:
        return None
    none = torch.zeros_like(masks[0][:1])
    return join([none.expand(len(p.data), -1) if p.mask is None else p.mask for p in parts])


def real_tokens(segment: Segment, sizes: Sequence[int], encoded: bool) -> Tensor | None:
    """Tells tokens from padding, and from what a row lacks, without waiting for the device.

    Args:
        segment: parts that are joined to one sequence.
        sizes: columns of each part.
        encoded: whether columns are the kept tokens; else they are all places of the view.

    Returns:
        Bool ``[B, sum(sizes)]``; None where all tokens are real.
    """
    real = []
    for part, size in zip(segment.parts, sizes, strict=True):
        count = part.kept if encoded and part.keep is not None else part.length
        if part.present is not None:
            count = part.present * (size if count is None else count)
        padded = count is not None and int(count.min()) < size
        real.append(count if padded else None)
    if not any(count is not None for count in real):
        return None
    device = segment.parts[0].data.device
    every = torch.ones(1, 1, dtype=torch.bool, device=device).expand(segment.rows, max(sizes))
    masks = [
        every[:, :size]
        if count is None
        else torch.arange(size, device=device) < count.to(device, non_blocking=True)[:, None]
        for count, size in zip(real, sizes, strict=True)
    ]
    return torch.cat(masks, dim=1)


def keys(real: Tensor | None) -> Tensor | None:
    """Returns the mask of a ``Group`` whose first token counts, before tokens ``real [B, T]``."""
    return None if real is None else F.pad(real, (1, 0), value=True)[:, None, None]


def pack(groups: list[Tensor]) -> Tensor:
    """Joins ``[rows, length, width]`` groups into a stream ``[total, width]``; one is a view."""
    return join([group.flatten(0, 1) for group in groups])


def unpack(x: Tensor, layout: Layout) -> list[Tensor]:
    """Views the stream ``[total, width]`` as one ``[rows, length, width]`` for each group."""
    sizes = [group.rows * group.length for group in layout]
    parts = (x,) if len(sizes) == 1 else torch.split(x, sizes)
    return [part.view(g.rows, g.length, -1) for part, g in zip(parts, layout, strict=True)]


def quick_gelu(x: Tensor) -> Tensor:
    """Returns ``x * sigmoid(1.702 x)``, CLIP's GELU, as a SiLU: half the saved activations."""
    return F.silu(1.702 * x) * (1 / 1.702)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class Attention(nn.Module):
    """Multi-head self-attention within each row of the stream."""

    def __init__(self, width: int, heads: int, qkv_bias: bool = True, causal: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} is not divisible by heads={heads}; change one of them")
        self.heads = heads
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Maps ``[total, width]`` to the same shape."""
        out = []
        for qkv, group in zip(unpack(self.qkv(x), layout), layout, strict=True):
            q, k, v = self._split(qkv)
            y = attention(q, k, v, group.mask, self.causal)
            out.append(y.transpose(1, 2).flatten(2))
        return self.proj(pack(out))

    def of_first(self, x: Tensor) -> Tensor:
        """Returns what the first token of ``[B, L, width]`` attends to, ``[B, heads, L]``."""
        q, k, _ = self._split(self.qkv(x))
        logits = (q[:, :, :1] * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return logits.squeeze(2).softmax(-1)

    def _split(self, qkv: Tensor) -> list[Tensor]:
        """Returns queries, keys and values ``[B, heads, L, D]`` of ``[B, L, 3 * width]``."""
        # Unbound before it is transposed: the gradient comes back in qkv's own memory order.
        parts = qkv.unflatten(2, (3, self.heads, -1)).unbind(2)
        return [part.transpose(1, 2) for part in parts]


class MLP(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, width: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is none of {sorted(ACTIVATIONS)}")
        self.act = ACTIVATIONS[activation]
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class SwiGLU(nn.Module):
    """DINOv2's gated MLP (arXiv 2002.05202): its ``w12`` is ``fc1``, its ``w3`` is ``fc2``.

    The hidden width is two thirds of ``hidden``, rounded up to a multiple of 8: as many parameters
    as the MLP that it replaces.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        self.fc1 = nn.Linear(width, 2 * hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value)


class LayerScale(nn.Module):
    """A residual branch scaled by channel (CaiT, arXiv 2103.17239)."""

    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), value))

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        return torch.addcmul(x, branch, self.gamma)


def draw_rows(
    layout: Layout, counts: Sequence[int], device: torch.device
) -> tuple[list[Tensor], Layout]:
    """Draws rows of each group, without waiting for the device.

    Args:
        layout: of the whole stream.
        counts: how many rows of each group.
        device: of the stream.

    Returns:
        For each group, int64 places of the drawn tokens in the stream; and the layout of these.
    """
    places, drawn, first = [], [], 0
    for group, count in zip(layout, counts, strict=True):
        rows = torch.randperm(group.rows, device=device)[:count]
        tokens = torch.arange(first, first + group.length, device=device)
        places.append((rows[:, None] * group.length + tokens).flatten())
        mask = None if group.mask is None else group.mask.index_select(0, rows)
        drawn.append(Group(count, group.length, mask))
        first += group.rows * group.length
    return places, tuple(drawn)


class Block(nn.Module):
    """A pre-norm transformer block on a packed stream.

    Args:
        width: channels.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over ``width``.
        ffn: ``'mlp'`` or ``'swiglu'``.
        activation: ``'gelu'`` or ``'quick_gelu'``, of the MLP.
        layer_scale: initial LayerScale, or None for none.
        drop_path: share of the rows of each group, rounded, that a residual branch leaves out in
            training (arXiv 1603.09382). They are not computed, as in DINOv2 (arXiv 2304.07193,
            section 5); the others count for more, so that the mean is that of the whole branch.
        qkv_bias: whether queries, keys and values have a bias.
        norm_eps: of the layer norms.
        causal: whether tokens see the tokens before them only.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        ffn: str = "mlp",
        activation: str = "gelu",
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if ffn not in ("mlp", "swiglu"):
            raise ValueError(f"ffn={ffn!r} is neither 'mlp' nor 'swiglu'")
        hidden = int(width * mlp_ratio)
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads, qkv_bias, causal)
        self.ls1 = LayerScale(width, layer_scale) if layer_scale else None
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = MLP(width, hidden, activation) if ffn == "mlp" else SwiGLU(width, hidden)
        self.ls2 = LayerScale(width, layer_scale) if layer_scale else None

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Maps ``[total, width]`` to the same shape."""
        x = self._add(x, layout, self._attend, self.ls1)
        return self._add(x, layout, self._transform, self.ls2)

    def _attend(self, x: Tensor, layout: Layout) -> Tensor:
        return self.attn(self.norm1(x), layout)

    def _transform(self, x: Tensor, layout: Layout) -> Tensor:
        return self.mlp(self.norm2(x))

    def _add(
        self,
        x: Tensor,
        layout: Layout,
        branch: Callable[[Tensor, Layout], Tensor],
        scale: LayerScale | None,
    ) -> Tensor:
        rate = self.drop_path if self.training else 0.0
        counts = [max(1, round(group.rows * (1 - rate))) for group in layout]
        if counts == [group.rows for group in layout]:
            out = branch(x, layout)
            return x + out if scale is None else scale(x, out)
        # A block takes 1.04 of its time at a rate of 0.05, 0.94 at 0.1, 0.8 at 0.2 and 0.65 at 0.4
        # (ViT-S, float32, one core); computed whole, with rows zeroed, it would take 1.04.
        places, drawn = draw_rows(layout, counts, x.device)
        out = branch(x.index_select(0, torch.cat(places)), drawn)
        if scale is not None:
            out = out * scale.gamma
        x = x.clone()
        pieces = torch.split(out.to(x.dtype), [len(place) for place in places])
        for place, piece, group, count in zip(places, pieces, layout, counts, strict=True):
            x.index_add_(0, place, piece, alpha=group.rows / count)
        return x


def init_linears(module: nn.Module) -> None:
    """Draws all matrices of linear layers as timm and DINOv2 do; their biases are zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def sincos_positions(height: int, width: int, channels: int) -> Tensor:
    """Returns MAE's fixed 2D sine-cosine position embedding ``[height * width, channels]``.

    The first half of the channels encodes the column, the second the row, as in the published code
    (mae ``util/pos_embed.py``, whose variable names say the opposite).

    Raises:
        ValueError: ``channels`` is not a multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"sine-cosine positions need a width divisible by 4, not {channels}")
    by_row, by_column = (sincos_line(n, channels // 2) for n in (height, width))
    grid = [by_column.expand(height, -1, -1), by_row[:, None].expand(-1, width, -1)]
    return torch.cat(grid, dim=2).flatten(0, 1)


def sincos_line(length: int, channels: int) -> Tensor:
    """Returns the fixed sine-cosine embedding of a line ``[length, channels]`` (1706.03762, 3.5).

    All sines come before all cosines, as in MAE.
    """
    half = channels // 2
    omega = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(torch.get_default_dtype())


def resize_positions(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolates a square grid of position embeddings, with gradient.

    Bicubic and antialiased, as DINOv2 and timm do.

    Args:
        grid: ``[g * g, width]``.
        size: new height and width in patches.

    Returns:
        ``[height * width, width]``; ``grid`` itself where the size is its own.
    """
    side = round(len(grid) ** 0.5)
    if size == (side, side):
        return grid
    # Half precision has no antialiased kernel; float64 stays.
    image = grid.to(torch.promote_types(grid.dtype, torch.float32))
    image = image.view(1, side, side, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size, mode="bicubic", antialias=True)
    return image.permute(0, 2, 3, 1).flatten(0, 2).to(grid.dtype)


def refuse_fusion(tower: Tower, needs: frozenset[Need]) -> None:
    """Raises ValueError where a need fuses views; for towers that encode each view by itself."""
    for need in needs:
        if not isinstance(need.view, str):
            raise ValueError(
                f"{type(tower).__name__} encodes single views, but {need} names several; "
                "give that need a fusion tower"
            )


def published(archs: Mapping[str, Arch], arch: str, **given: Any) -> Arch:
    """Returns the sizes of a published model, with those that are given (not None) in their place.

    Raises:
        ValueError: ``archs`` has no such model.
    """
    if arch not in archs:
        raise ValueError(f"arch={arch!r} is not known{nearest(arch, archs)}")
    return replace(archs[arch], **{key: v for key, v in given.items() if v is not None})
