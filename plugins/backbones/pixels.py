"""Raw pixels as a tower that learns nothing: the yardstick of every probe."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from webssl_toolbox.objective import Need
from webssl_toolbox.towers import Encoding, Layer, Segment, Tower, refuse_patches

from ._patches import patch_grid


class Pixels(Tower):
    """A small picture of each image, and the pixels of its patches. It has no weights.

    What a probe reads from it any network must beat. ``Encoding.pooled`` is the picture without its
    mean, so that brightness is no cue, as in the evaluator ``PixelNeighbour``;
    ``Encoding.tokens`` are all pixels of each patch.

    Args:
        size: side of the small picture, in pixels.
        patch_size: side of a patch, in pixels.
        input_size: side of the images, in pixels; a multiple of ``patch_size``.

    Raises:
        ValueError: a number below 1, or an input that does not divide into patches.
    """

    input_size: int

    def __init__(self, size: int = 16, patch_size: int = 8, input_size: int = 48) -> None:
        super().__init__()
        for name, value in dict(size=size, patch_size=patch_size, input_size=input_size).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, but it is {value}")
        self.size, self.patch_size, self.input_size = size, patch_size, input_size
        self.width, self.token_width = 3 * size**2, 3 * patch_size**2
        self.num_patches()

    def plan(self, needs: frozenset[Need]) -> None:
        refuse_patches(self, needs)

    def num_patches(self, size: int | None = None) -> int:
        rows, columns = patch_grid(
            size or self.input_size, size or self.input_size, self.patch_size
        )
        return rows * columns

    def forward(self, segments: list[Segment]) -> list[Encoding]:
        found = []
        for segment in segments:
            pooled, patches = self._layer(segment.part.data)
            found.append(Encoding(pooled, patches.flatten(2).transpose(1, 2)))
        return found

    def layers(self, images: Tensor, indices: Sequence[int]) -> list[Layer]:
        """Returns the same for each index: there is one layer."""
        return [self._layer(images)] * len(indices)

    def _layer(self, images: Tensor) -> Layer:
        rows, columns = patch_grid(images.shape[2], images.shape[3], self.patch_size)
        small = F.adaptive_avg_pool2d(images, self.size).flatten(1)
        patches = F.unfold(images, self.patch_size, stride=self.patch_size)
        return Layer(small - small.mean(1, keepdim=True), patches.unflatten(2, (rows, columns)))
