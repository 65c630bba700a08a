"""A picture of what mmpretrain tests: images, what they are and what they are taken for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS
from PIL import Image, ImageDraw, ImageFont

CELL, GAP, LINE, COLUMNS = 112, 8, 15, 6  # pixels
PAPER, INK, RIGHT, WRONG = (242, 243, 246), (90, 96, 108), (24, 120, 60), (190, 40, 40)
Row = tuple[np.ndarray, int, int]


@HOOKS.register_module()
class Predictions(Hook):
    """Writes ``predictions.png`` to the work dir after each validation and test.

    Args:
        count: images that are shown, evenly spaced over the data set.
    """

    def __init__(self, count: int = 18) -> None:
        self.count = count
        self._seen = 0
        self._shown: list[Row] = []

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Keeps some of the images with their labels."""
        self._keep(runner, runner.val_dataloader, data_batch, outputs)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """As in validation."""
        self._keep(runner, runner.test_dataloader, data_batch, outputs)

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        self._write(runner, runner.val_dataloader.dataset.metainfo["classes"])

    def after_test_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        self._write(runner, runner.test_dataloader.dataset.metainfo["classes"])

    def _keep(self, runner: Any, loader: Any, batch: Any, outputs: Sequence[Any]) -> None:
        preprocess = getattr(runner.model, "module", runner.model).data_preprocessor
        every = max(1, len(loader.sampler) // self.count)
        for image, sample in zip(batch["inputs"], outputs, strict=True):
            if self._seen % every == 0 and len(self._shown) < self.count:
                pixels = image.permute(1, 2, 0).cpu().numpy()
                pixels = pixels[..., ::-1] if preprocess.to_rgb else pixels
                labels = (int(sample.gt_label), int(sample.pred_label))
                self._shown.append((np.ascontiguousarray(pixels), *labels))
            self._seen += 1

    @master_only
    def _write(self, runner: Any, classes: Sequence[str]) -> None:
        draw(self._shown, classes).save(Path(runner.work_dir) / "predictions.png")
        self._shown, self._seen = [], 0


def draw(rows: Sequence[Row], classes: Sequence[str]) -> Image.Image:
    """Draws images, below each its class and, green or red, the class that was predicted.

    Args:
        rows: image uint8 ``[H, W, 3]``, true class, predicted class.
        classes: their names.
    """
    tall = CELL + 2 * LINE + GAP
    size = (GAP + COLUMNS * (CELL + GAP), GAP + -(-len(rows) // COLUMNS) * tall)
    page = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for i, (image, truth, found) in enumerate(rows):
        left, top = GAP + i % COLUMNS * (CELL + GAP), GAP + i // COLUMNS * tall
        cell = Image.fromarray(image).resize((CELL, CELL), Image.Resampling.NEAREST)
        page.paste(cell, (left, top))
        pen.text((left, top + CELL), classes[truth], INK, font)
        colour = RIGHT if found == truth else WRONG
        pen.text((left, top + CELL + LINE - 2), classes[found], colour, font)
    return page
