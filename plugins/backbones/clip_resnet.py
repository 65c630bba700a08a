"""CLIP's ResNet (arXiv 2103.00020, section 2.4; reference: openai/CLIP ``clip/model.py``)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox.norm import build_norm

from ._common import published, resize_positions
from ._convnet import ConvTower, by_view


@dataclass(frozen=True)
class Arch:
    """Sizes of a published model; its attention pool has heads of 64 channels."""

    depths: tuple[int, int, int, int]
    width: int
    input_size: int
    out_width: int


# Table 19 of the paper.
ARCHS = {
    "50": Arch((3, 4, 6, 3), 64, 224, 1024),
    "101": Arch((3, 4, 23, 3), 64, 224, 512),
    "50x4": Arch((4, 6, 10, 6), 80, 288, 640),
    "50x16": Arch((6, 8, 18, 8), 96, 384, 768),
    "50x64": Arch((3, 15, 36, 10), 128, 448, 1024),
}


class Bottleneck(nn.Module):
    """A ResNet bottleneck that strides by average pooling."""

    def __init__(self, inputs: int, planes: int, stride: int, norm: str) -> None:
        super().__init__()
        outputs = 4 * planes
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = build_norm(norm, planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = build_norm(norm, planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = build_norm(norm, outputs)
        self.stride = stride
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inputs != outputs:
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            if stride > 1:
                layers["-1"] = nn.AvgPool2d(stride)
            layers["0"] = nn.Conv2d(inputs, outputs, 1, bias=False)
            layers["1"] = build_norm(norm, outputs)
            self.downsample = nn.Sequential(layers)

    def forward(self, x: Tensor, rows: list[int]) -> Tensor:
        out = F.relu_(by_view(self.bn1, self.conv1(x), rows))
        out = F.relu_(by_view(self.bn2, self.conv2(out), rows))
        if self.stride > 1:
            out = F.avg_pool2d(out, self.stride)
        out = by_view(self.bn3, self.conv3(out), rows)
        if self.downsample is not None:
            *before, norm = self.downsample
            for layer in before:
                x = layer(x)
            x = by_view(norm, x, rows)
        return F.relu_(out + x)


class AttentionPool(nn.Module):
    """Attention of the mean token over all positions of a feature map.

    With a single query per image, keys and values need not be computed: the key projection is
    moved to the query, and the value projection behind the weighted mean. This is the same function
    with two matrix products per image in place of two per position (RN50 at 224 px: 50).
    """

    def __init__(self, side: int, width: int, heads: int, out_width: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads={heads} does not divide the {width} channels; change heads")
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(side * side + 1, width))
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, out_width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps ``[B, height * width, C]`` to ``[B, out_width]``."""
        mean, grid = self.positional_embedding[:1], self.positional_embedding[1:]
        positions = torch.cat([mean, resize_positions(grid, size)])
        x = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1) + positions

        key = self.k_proj.weight.view(self.heads, -1, x.shape[2])
        value = self.v_proj.weight.view(self.heads, -1, x.shape[2])
        q_bhd = self.q_proj(x[:, 0]).view(len(x), self.heads, -1) * key.shape[1] ** -0.5
        # The key's bias adds the same to all logits of a query, so it changes nothing; it is here
        # because a parameter without a gradient would stall data parallelism.
        bias_bh1 = (q_bhd * self.k_proj.bias.view(self.heads, -1)).sum(2, keepdim=True)
        q_bhc = q_bhd.transpose(0, 1).bmm(key).transpose(0, 1)
        weights_bhn = torch.baddbmm(bias_bh1, q_bhc, x.transpose(1, 2)).softmax(2)
        mixed_hbc = weights_bhn.bmm(x).transpose(0, 1)
        y_bhd = mixed_hbc.bmm(value.transpose(1, 2)).transpose(0, 1)
        return self.c_proj(y_bhd.flatten(1) + self.v_proj.bias)


class CLIPResNet(ConvTower):
    """CLIP's modified ResNet: a three-layer stem, anti-aliased strides and an attention pool.

    Parameters are named as in OpenAI's ``visual.``.

    Args:
        arch: a published model, ``'50'`` to ``'50x64'``; it gives what is None below.
        depths: bottlenecks of each stage.
        width: channels after the stem; the last map has 32 times as many.
        input_size: side of the images in pixels that the position embedding is made for.
        heads: of the attention pool; None for ``width // 2``, 64 channels each.
        out_width: channels after the attention pool; None for ``32 * width`` where a width is
            given, else that of ``arch``.
        norm: ``'SyncBN'``, or ``'BN'``.
        pool: ``'attention'``, or ``'mean'`` of the positions.

    Raises:
        ValueError: the arguments contradict one another.
    """

    input_size: int

    def __init__(
        self,
        arch: str = "50",
        depths: tuple[int, int, int, int] | None = None,
        width: int | None = None,
        input_size: int | None = None,
        heads: int | None = None,
        out_width: int | None = None,
        norm: str = "SyncBN",
        pool: str = "attention",
    ) -> None:
        super().__init__()
        if pool not in ("attention", "mean"):
            raise ValueError(f"pool={pool!r} is neither 'attention' nor 'mean'")
        if pool == "mean" and (heads or out_width):
            raise ValueError("heads and out_width belong to pool='attention'; leave them out")
        if out_width is None and width is not None:
            out_width = 32 * width
        size = published(
            ARCHS, arch, depths=depths, width=width, input_size=input_size, out_width=out_width
        )
        if size.input_size < 32:
            raise ValueError(f"input_size={size.input_size} is below the total stride of 32 pixels")
        width = size.width
        self.input_size = size.input_size
        self.token_width = 32 * width
        self.width = self.token_width if pool == "mean" else size.out_width

        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = build_norm(norm, width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = build_norm(norm, width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = build_norm(norm, width)
        inputs = width
        for stage, depth in enumerate(size.depths):
            planes = width * 2**stage
            blocks = []
            for i in range(depth):
                blocks.append(Bottleneck(inputs, planes, 2 if stage and not i else 1, norm))
                inputs = 4 * planes
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.attnpool = (
            AttentionPool(size.input_size // 32, inputs, heads or width // 2, self.width)
            if pool == "attention"
            else None
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Initialises as CLIP does: residual branches at zero, the pool's projections small."""
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.get_parameter("bn3.weight"))
        if self.attnpool is not None:
            std = self.token_width**-0.5
            nn.init.normal_(self.attnpool.positional_embedding, std=std)
            for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
                nn.init.normal_(self.attnpool.get_parameter(f"{name}.weight"), std=std)

    def feature_maps(self, x: Tensor, rows: list[int]) -> Iterator[Tensor]:
        for conv, norm in (
            (self.conv1, self.bn1),
            (self.conv2, self.bn2),
            (self.conv3, self.bn3),
        ):
            x = F.relu_(by_view(norm, conv(x), rows))
        x = F.avg_pool2d(x, 2)
        for stage in range(1, 5):
            for block in self.get_submodule(f"layer{stage}").children():
                x = block(x, rows)
            yield x

    def pooled(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        return tokens.mean(1) if self.attnpool is None else self.attnpool(tokens, size)
