"""Patch masks, drawn in the worker, so that recomputation and resume see the same mask."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, isqrt, log, sqrt
from typing import Any, ClassVar

import numpy as np

from webssl_toolbox.data.collate import PatchMask
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.data.views import Context, Transform

from ._common import probability


class PatchTransform(Transform):
    """A transform that starts from nothing but the number of patches of a tower.

    Args:
        tower: whose patches.
        size: side of the view in pixels; None for the tower's input size.
    """

    reads: ClassVar[str] = "nothing"

    def __init__(self, tower: str = "image", size: int | None = None) -> None:
        self.tower = tower
        self.size = size
        self.patches = 0

    def bind(self, context: Context) -> None:
        """Asks the tower for its grid."""
        self.patches = context.tower(self.tower).num_patches(self.size)


class RandomKeep(PatchTransform):
    """Keeps a random subset of the patches: int64 ``[K]``, ascending, with ``K = int(N * ratio)``.

    MAE keeps a quarter (He et al. 2021, arXiv:2111.06377), FLIP half or less (arXiv:2212.00794).

    Args:
        ratio: share of the patches that is kept.
        tower: whose patches.
        size: side of the view in pixels; None for the tower's input size.
    """

    def __init__(self, ratio: float, tower: str = "image", size: int | None = None) -> None:
        super().__init__(tower, size)
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio must be above 0 and at most 1, but it is {ratio}")
        self.ratio = ratio

    def bind(self, context: Context) -> None:
        """Asks the tower for its grid; refuses a ratio that keeps nothing of it."""
        super().bind(context)
        self.kept = int(self.patches * self.ratio)
        if self.kept == 0:
            raise ValueError(f"ratio={self.ratio} keeps none of {self.patches} patches; raise it")

    def __call__(self, value: Any, sample: Sample, rng: np.random.Generator) -> Any:
        return np.sort(rng.permutation(self.patches)[: self.kept])


class BlockMask(PatchTransform):
    """Hides rectangles of patches in some images (iBOT, arXiv:2111.07832; DINOv2, 2304.07193).

    As in DINOv2, rectangles of at least four patches and an aspect between 0.3 and 1/0.3 are added
    until the drawn share is reached or ten tries fit nothing more, so the share is an upper bound.
    As there, shares spread evenly over the masked images of a batch, in a random order; over the
    global batch, where DINOv2 regards that of a GPU, and for each view by itself. Outside of a
    batch they are drawn at random.

    Args:
        ratio: range of the share of patches to hide in an image that is masked.
        prob: share of the images that are masked at all.
        tower: whose patches.
        size: side of the view in pixels; None for the tower's input size.
    """

    stratified: ClassVar[bool] = True

    def __init__(
        self,
        ratio: Sequence[float] = (0.1, 0.5),
        prob: float = 0.5,
        tower: str = "image",
        size: int | None = None,
    ) -> None:
        super().__init__(tower, size)
        if len(ratio) != 2 or not 0 <= ratio[0] <= ratio[1] <= 1:
            raise ValueError(f"ratio must be (low, high) within [0, 1], but it is {ratio}")
        self.ratio = ratio
        self.prob = probability("prob", prob)

    def bind(self, context: Context) -> None:
        """Asks the tower for its grid, which must be square."""
        super().bind(context)
        self.side = isqrt(self.patches)
        if self.side**2 != self.patches:
            raise ValueError(
                f"BlockMask needs a square grid, but the tower {self.tower!r} has {self.patches} "
                "patches; give a square size"
            )

    def __call__(self, value: Any, sample: Sample, rng: np.random.Generator) -> Any:
        stratum = rng.random() if sample.stratum is None else sample.stratum
        target = 0
        if stratum < self.prob:
            low, high = self.ratio
            target = int(self.patches * (low + (high - low) * stratum / self.prob))
        return PatchMask(block_mask(self.side, target, rng).ravel())


def block_mask(side: int, target: int, rng: np.random.Generator) -> np.ndarray:
    """Draws rectangles that cover at most ``target`` cells; returns bool ``[side, side]``."""
    mask = np.zeros((side, side), dtype=bool)
    tries = 10
    while target > 0 and tries:
        tries -= 1
        u_area, u_aspect, u_top, u_left = rng.random(4).tolist()
        # A target below four asks for it exactly: small grids are masked too.
        least = min(4, target)
        area = least + (target - least) * u_area
        aspect = exp(log(0.3) * (1 - 2 * u_aspect))
        height, width = round(sqrt(area * aspect)), round(sqrt(area / aspect))
        if not (0 < height < side and 0 < width < side):
            continue
        top, left = int(u_top * (side - height + 1)), int(u_left * (side - width + 1))
        block = mask[top : top + height, left : left + width]
        new = height * width - int(block.sum())
        if 0 < new <= target:
            block[...] = True
            target -= new
            tries = 10
    return mask
