"""Pictures of masked autoencoding: what a decoder makes of the patches that it was left."""

from __future__ import annotations

from math import isqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from webssl_toolbox.data.collate import Tokens
from webssl_toolbox.data.rng import sample_rng
from webssl_toolbox.encoder import Encoder
from webssl_toolbox.registry import DATASETS

from ._common import Config, check_positive
from ._grid import Cell, draw_grid, shown
from ._scale import to_pixels

GRAY = 190


class Reconstructions:
    """Draws images, what is left of them when patches are hidden, and what an objective paints.

    The objective has ``reconstruct(features) -> [B, 3, H, W]``, in the scale of the view, as
    ``MAE`` has. Images are prepared by ``test_view``, and the patches kept are random, the same at
    every step. The normalisation is undone (He et al. 2021, arXiv:2111.06377, figure 2). A tower
    that fuses images and captions is given the image alone.

    Args:
        data: dataset config; evenly spaced samples of it are shown, the same at every step.
        objective: its name in ``model.objectives``.
        count: images shown.
        ratio: share of the patches that is kept.

    Raises:
        ValueError: an unknown dataset or argument in ``data``, or a number that is not positive.
    """

    def __init__(
        self, data: Config, objective: str = "mae", count: int = 8, ratio: float = 0.25
    ) -> None:
        check_positive(count=count, ratio=ratio)
        DATASETS.check(data, "data")
        if ratio > 1:
            raise ValueError(f"ratio={ratio}: give the share of the patches to keep, at most 1")
        self.data, self.objective, self.count, self.ratio = data, objective, count, ratio

    def run(self, model: Encoder) -> dict[str, np.ndarray]:
        """Returns ``grid``: a row for each image.

        Raises:
            MissingPart: the model has no objective of that name.
            ValueError: the objective does not paint, or no image can be read.
        """
        objective = model.objective(self.objective)
        if not hasattr(objective, "reconstruct"):
            kind = type(objective).__name__
            raise ValueError(
                f"objective={self.objective!r}: {kind} has no method reconstruct; name an MAE"
            )
        (need,) = objective.needs()
        (view, keep, _), *texts = need.parts
        samples = shown(self.data, self.count)
        with model.evaluating():
            images = model.prepare(samples)
            patches = model.tower(need.tower).num_patches(images.shape[-1])
            kept = random_patches(len(images), patches, self.ratio)
            inputs = {view: images, keep: kept}
            for text, _, _ in texts:
                inputs |= no_text(text, model.tower(need.tower).tokenizer, len(images))
            painted = objective.reconstruct(model.features(objective, inputs))
        original = to_pixels(model, images)
        cells = zip(original, hide(original, kept, patches), to_pixels(model, painted), strict=True)
        return {
            "grid": draw_grid(
                ["original", "what is encoded", "reconstruction"],
                [[Cell(image) for image in row] for row in cells],
            )
        }


def random_patches(rows: int, patches: int, ratio: float) -> Tensor:
    """Draws the same patches at every call; int64 ``[rows, K]``, ascending."""
    count = max(1, int(patches * ratio))
    drawn = [sample_rng(0, 0, row, "keep").permutation(patches)[:count] for row in range(rows)]
    return torch.from_numpy(np.stack(drawn)).sort(dim=1).values


def no_text(view: str, tokenizer: Any, rows: int) -> dict[str, Tensor]:
    """Returns the inputs of a text view that no row has: images go without their captions."""
    empty = Tokens(tokenizer.encode(""), caption=0, keep=np.arange(1))
    return Tokens.collate(view, [empty] * rows) | {
        f"{view}.present": torch.zeros(rows, dtype=torch.bool)
    }


def hide(pictures: np.ndarray, kept: Tensor, patches: int) -> np.ndarray:
    """Paints gray what is not kept.

    Args:
        pictures: uint8 ``[N, S, S, 3]``.
        kept: int64 ``[N, K]``, of a square grid of patches.
        patches: how many the grid has.
    """
    hidden = torch.ones(len(kept), patches, dtype=torch.bool).scatter(1, kept, False)
    side = isqrt(patches)
    size = pictures.shape[1] // side
    grid = hidden.view(-1, side, side).numpy().repeat(size, axis=1).repeat(size, axis=2)
    return np.where(grid[..., None], np.uint8(GRAY), pictures)
