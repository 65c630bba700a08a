"""RegNetY (arXiv 2003.13678): a residual network of grouped convolutions and squeeze-excitation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox.norm import build_norm

from ._common import published
from ._convnet import ConvTower, by_view

STEM = 32  # channels
SQUEEZE = 0.25  # width of a squeeze-excitation over that of its block's input


@dataclass(frozen=True)
class Arch:
    """Sizes of a published model."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    group_width: int


# Figure 16 of the paper; 64GF and 128GF are those of SEER (arXiv 2103.01988).
ARCHS = {
    "200MF": Arch((1, 1, 4, 7), (24, 56, 152, 368), 8),
    "400MF": Arch((1, 3, 6, 6), (48, 104, 208, 440), 8),
    "600MF": Arch((1, 3, 7, 4), (48, 112, 256, 608), 16),
    "800MF": Arch((1, 3, 8, 2), (64, 128, 320, 768), 16),
    "1.6GF": Arch((2, 6, 17, 2), (48, 120, 336, 888), 24),
    "3.2GF": Arch((2, 5, 13, 1), (72, 216, 576, 1512), 24),
    "4GF": Arch((2, 6, 12, 2), (128, 192, 512, 1088), 64),
    "6.4GF": Arch((2, 7, 14, 2), (144, 288, 576, 1296), 72),
    "8GF": Arch((2, 4, 10, 1), (168, 448, 896, 2016), 56),
    "12GF": Arch((2, 5, 11, 1), (224, 448, 896, 2240), 112),
    "16GF": Arch((2, 4, 11, 1), (224, 448, 1232, 3024), 112),
    "32GF": Arch((2, 5, 12, 1), (232, 696, 1392, 3712), 232),
    "64GF": Arch((2, 5, 12, 1), (328, 984, 1968, 4920), 328),
    "128GF": Arch((2, 7, 17, 1), (528, 1056, 2904, 7392), 264),
}


class ConvNorm(nn.Module):
    """A convolution without bias, and its norm."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, norm: str, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = build_norm(norm, outputs)

    def forward(self, x: Tensor, rows: list[int]) -> Tensor:
        return by_view(self.bn, self.conv(x), rows)


class SqueezeExcitation(nn.Module):
    """Channels scaled by what their means over the map say (arXiv 1709.01507)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * self.fc2(F.relu_(self.fc1(mean))).sigmoid_()


class Block(nn.Module):
    """The Y block: a residual bottleneck of ratio 1 with squeeze-excitation."""

    def __init__(self, inputs: int, width: int, group_width: int, stride: int, norm: str) -> None:
        super().__init__()
        groups = width // group_width
        self.conv1 = ConvNorm(inputs, width, 1, norm)
        self.conv2 = ConvNorm(width, width, 3, norm, stride, groups)
        self.se = SqueezeExcitation(width, round(SQUEEZE * inputs))
        self.conv3 = ConvNorm(width, width, 1, norm)
        change = stride > 1 or inputs != width
        self.downsample = ConvNorm(inputs, width, 1, norm, stride) if change else None

    def forward(self, x: Tensor, rows: list[int]) -> Tensor:
        out = F.relu_(self.conv1(x, rows))
        out = F.relu_(self.conv2(out, rows))
        out = self.conv3(self.se(out), rows)
        return F.relu_(out + (x if self.downsample is None else self.downsample(x, rows)))


class RegNetY(ConvTower):
    """RegNetY, pooled by the mean position. Parameters are named as in timm.

    Args:
        arch: a published model, ``'200MF'`` to ``'128GF'``; it gives what is None below.
        depths: blocks of each stage; a stage halves the map.
        widths: channels of each stage, multiples of ``group_width``.
        group_width: channels of a group of the 3 x 3 convolutions.
        input_size: side of the images in pixels.
        norm: ``'SyncBN'``, or ``'BN'``.

    Raises:
        ValueError: the arguments contradict one another.
    """

    input_size: int

    def __init__(
        self,
        arch: str = "4GF",
        depths: tuple[int, ...] | None = None,
        widths: tuple[int, ...] | None = None,
        group_width: int | None = None,
        input_size: int = 224,
        norm: str = "SyncBN",
    ) -> None:
        super().__init__()
        size = published(ARCHS, arch, depths=depths, widths=widths, group_width=group_width)
        if len(size.depths) != len(size.widths):
            raise ValueError(
                f"depths={size.depths} and widths={size.widths} need one number for each stage"
            )
        if any(width % size.group_width for width in size.widths):
            raise ValueError(
                f"group_width={size.group_width} does not divide widths={size.widths}; change one"
            )
        self.input_size = input_size
        self.width = self.token_width = size.widths[-1]

        self.stem = ConvNorm(3, STEM, 3, norm, stride=2)
        inputs = STEM
        for stage, (depth, width) in enumerate(zip(size.depths, size.widths, strict=True), 1):
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for i in range(1, depth + 1):
                blocks[f"b{i}"] = Block(inputs, width, size.group_width, 2 if i == 1 else 1, norm)
                inputs = width
            self.add_module(f"s{stage}", nn.Sequential(blocks))
        self.init_weights()

    def init_weights(self) -> None:
        """Draws the convolutions after He et al. (arXiv 1502.01852), by their outputs."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_maps(self, x: Tensor, rows: list[int]) -> Iterator[Tensor]:
        x = F.relu_(self.stem(x, rows))
        for name, stage in self.named_children():
            if name != "stem":
                for block in stage.children():
                    x = block(x, rows)
                yield x
