"""A picture of what mmsegmentation's Runner tests: image, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from PIL import Image, ImageDraw, ImageFont

CELL, GAP, LINE = 128, 6, 20  # pixels
PAPER, INK = (242, 243, 246), (90, 96, 108)


@HOOKS.register_module()
class SideBySide(Hook):
    """Writes ``side_by_side.png`` to the work dir after each validation and test.

    Args:
        rows: the first images that are shown.
    """

    def __init__(self, rows: int = 6) -> None:
        self.rows = rows
        self._shown: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Keeps the first images with their maps; predictions have the size of the truth."""
        for sample in outputs[: self.rows - len(self._shown)]:
            maps = (sample.gt_sem_seg.data, sample.pred_sem_seg.data)
            truth, found = (labels.squeeze().cpu().numpy().astype(int) for labels in maps)
            self._shown.append((mmcv.imread(sample.img_path, channel_order="rgb"), truth, found))

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        self._write(runner, runner.val_dataloader.dataset.metainfo)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        self.after_val_iter(runner, batch_idx, data_batch, outputs)

    def after_test_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        self._write(runner, runner.test_dataloader.dataset.metainfo)

    @master_only
    def _write(self, runner: Any, meta: Mapping[str, Any]) -> None:
        picture = draw(self._shown, meta["classes"], meta["palette"])
        picture.save(Path(runner.work_dir) / "side_by_side.png")
        self._shown.clear()


def draw(
    rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
) -> Image.Image:
    """Draws a row for each image, and below them the colours of the classes that occur.

    Args:
        rows: image uint8 ``[H, W, 3]``, true classes ``[H, W]`` and found ones.
        classes: their names.
        palette: their colours; what is no class is black.
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    occurring = np.unique(np.concatenate([maps.ravel() for row in rows for maps in row[1:]]))
    names = [(int(label), classes[label]) for label in occurring if label < len(classes)]
    width, top = GAP + 3 * (CELL + GAP), LINE + GAP
    legend = top + len(rows) * (CELL + GAP)
    page = Image.new("RGB", (width, legend + LINE * -(-len(names) // 2) + GAP), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for column, head in enumerate(("image", "truth", "prediction")):
        left = GAP + column * (CELL + GAP)
        pen.text((left, GAP), head, INK, font)
        for i, row in enumerate(rows):
            cell = row[0] if column == 0 else table[row[column] % 256]
            # Nearest: edges of classes and pixels of small images stay as they are.
            small = Image.fromarray(cell).resize((CELL, CELL), Image.Resampling.NEAREST)
            page.paste(small, (left, top + i * (CELL + GAP)))
    for i, (label, name) in enumerate(names):
        left, above = GAP + i % 2 * (width // 2), legend + i // 2 * LINE
        colour = tuple(int(value) for value in table[label])
        pen.rectangle((left, above + 2, left + 12, above + 14), colour, INK)
        pen.text((left + 18, above), name, INK, font)
    return page
