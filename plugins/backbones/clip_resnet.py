"""CLIP's ResNet (arXiv 2103.00020, section 2.4; reference: openai/CLIP ``clip/model.py``)."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox.norm import build_norm
from webssl_toolbox.objective import Need
from webssl_toolbox.towers import Encoding, Segment, Tower, refuse_patches

from ._common import refuse_fusion, resize_positions


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


def by_view(norm: nn.Module, x: Tensor, rows: list[int]) -> Tensor:
    """Normalises views joined along the rows, each by its own batch statistics."""
    if len(rows) == 1 or not norm.training:
        return norm(x)
    return torch.cat([norm(view) for view in x.split(rows)])


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


class CLIPResNet(Tower):
    """CLIP's modified ResNet: a three-layer stem, anti-aliased strides and an attention pool.

    Each view has its own BatchNorm statistics. On a CPU, views of one size share the convolutions,
    which read their weights, and write their gradient, once a step. On a GPU they come one after
    another: at its batch sizes, the copies that joining takes move more bytes than the weights.

    Tokens are the positions of the last feature map. Parameters are named as in OpenAI's
    ``visual.``; images in channels_last stay so.

    Args:
        depths: bottlenecks of each stage: (3, 4, 6, 3) is RN50, (3, 4, 23, 3) RN101.
        width: channels after the stem; the last map has 32 times as many.
        input_size: side of the images in pixels that the position embedding is made for.
        heads: of the attention pool; None for ``width // 2``, 64 channels each.
        out_width: channels after the attention pool (1024 in OpenAI's RN50); None for
            ``32 * width``.
        norm: ``'SyncBN'``, or ``'BN'``.
        pool: ``'attention'``, or ``'mean'`` of the positions.

    Raises:
        ValueError: the arguments contradict one another.
    """

    input_size: int

    def __init__(
        self,
        depths: tuple[int, int, int, int] = (3, 4, 6, 3),
        width: int = 64,
        input_size: int = 224,
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
        if input_size < 32:
            raise ValueError(f"input_size={input_size} is below the total stride of 32 pixels")
        self.input_size = input_size
        self.token_width = 32 * width
        self.width = out_width or self.token_width

        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = build_norm(norm, width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = build_norm(norm, width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = build_norm(norm, width)
        inputs = width
        for stage, depth in enumerate(depths):
            planes = width * 2**stage
            blocks = []
            for i in range(depth):
                blocks.append(Bottleneck(inputs, planes, 2 if stage and not i else 1, norm))
                inputs = 4 * planes
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.attnpool = (
            AttentionPool(input_size // 32, inputs, heads or width // 2, self.width)
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

    def plan(self, needs: frozenset[Need]) -> None:
        refuse_fusion(self, needs)
        refuse_patches(self, needs)

    def forward(self, segments: list[Segment]) -> list[Encoding]:
        images = [segment.part.data for segment in segments]
        if images[0].device.type != "cpu" or len({view.shape[1:] for view in images}) > 1:
            return [encoding for view in images for encoding in self._encode([view])]
        return self._encode(images)

    def _encode(self, views: list[Tensor]) -> list[Encoding]:
        x = views[0] if len(views) == 1 else torch.cat(views)
        rows = [len(view) for view in views]
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
        tokens = x.flatten(2).transpose(1, 2)
        if self.attnpool is None:
            pooled = tokens.mean(1)
        else:
            pooled = self.attnpool(tokens, (x.shape[2], x.shape[3]))
        pairs = zip(pooled.split(rows), tokens.split(rows), strict=True)
        return [Encoding(*pair) for pair in pairs]
