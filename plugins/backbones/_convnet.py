"""What convolutional towers with BatchNorm share: views in one pass, statistics of each apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from webssl_toolbox.objective import Need
from webssl_toolbox.towers import Encoding, Layer, Segment, Tower, refuse_patches

from ._common import refuse_fusion
from ._layers import layer_of_map, resolve


class ConvTower(Tower):
    """A convolutional network in which each view has its own BatchNorm statistics.

    On a CPU, views of one size share the convolutions, which read their weights, and write their
    gradient, once a step. On a GPU they come one after another: at its batch sizes, the copies that
    joining takes move more bytes than the weights.

    Tokens are the positions of the last feature map; images in channels_last stay so.
    """

    def plan(self, needs: frozenset[Need]) -> None:
        refuse_fusion(self, needs)
        refuse_patches(self, needs)

    def forward(self, segments: list[Segment]) -> list[Encoding]:
        images = [segment.part.data for segment in segments]
        if images[0].device.type != "cpu" or len({view.shape[1:] for view in images}) > 1:
            return [encoding for view in images for encoding in self._encode([view])]
        return self._encode(images)

    def layers(self, images: Tensor, indices: Sequence[int]) -> list[Layer]:
        maps = list(self.feature_maps(images, [len(images)]))
        return [layer_of_map(maps[i]) for i in resolve(indices, len(maps))]

    def feature_maps(self, x: Tensor, rows: list[int]) -> Iterator[Tensor]:
        """Yields the map of each stage; the last is ``[B, token_width, h, w]``.

        Args:
            x: images ``[B, 3, H, W]``.
            rows: of each view that is joined in them.
        """
        raise NotImplementedError

    def pooled(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps ``[B, h * w, token_width]`` to ``[B, width]``: by default the mean position."""
        return tokens.mean(1)

    def _encode(self, views: list[Tensor]) -> list[Encoding]:
        rows = [len(view) for view in views]
        maps = self.feature_maps(views[0] if len(views) == 1 else torch.cat(views), rows)
        (x,) = deque(maps, maxlen=1)  # without a gradient, earlier maps are freed on the way
        tokens = x.flatten(2).transpose(1, 2)
        pooled = self.pooled(tokens, (x.shape[2], x.shape[3]))
        pairs = zip(pooled.split(rows), tokens.split(rows), strict=True)
        return [Encoding(*pair) for pair in pairs]


def by_view(norm: nn.Module, x: Tensor, rows: list[int]) -> Tensor:
    """Normalises views joined along the rows, each by its own batch statistics."""
    if len(rows) == 1 or not norm.training:
        return norm(x)
    return torch.cat([norm(view) for view in x.split(rows)])
