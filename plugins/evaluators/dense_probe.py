"""A dense probe that is cheap enough to follow a run: classes of drawings, read out by patch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from webssl_toolbox.encoder import Encoder, MissingPart
from webssl_toolbox.registry import DATASETS
from webssl_toolbox.towers import encode_batch

from ._common import Config, check_positive, check_splits, class_ids, percent
from ._grid import WHITE, Cell, draw_grid, spread
from ._maps import enlarge, grid_side, palette, with_legend
from ._readout import fit, mean_iou
from ._scale import from_pixels
from ._scenes import Scenes, cell_labels, compose_scenes

BATCH = 50  # scenes encoded at a time
SHOWN = 5  # scenes of each split in the picture


class DenseProbe:
    """Reads out linearly what each patch shows: a class of drawings, or the ground between them.

    Scores of whole images can rise while what patches hold decays (DINOv3, arXiv 2508.10104,
    section 4). Scenes of four drawings of different classes are composed, once for a run and always
    the same, at the tower's input size; a patch has the class that covers most of it. The read-out
    is ridge regression on standardised patch tokens: a closed form, so that no step size and no
    seed is in the result. Each class weighs the same, the ground included.

    Args:
        train: dataset config of the drawings that the read-out is fitted on; with alpha masks and
            labels, as those of ``Emoji`` with ``target='group'``.
        splits: name to dataset config of test sets; None removes an inherited one. Classes are
            compared by name.
        count: scenes of each set.
        ridge: penalty, over the variance of a channel.
        pixels: read out the pixels of patches in place of tokens: a yardstick. Named
            ``<evaluator>_pixels`` it is shown beside that evaluator.

    Raises:
        ValueError: an unknown dataset or argument in ``train`` or ``splits``, or a number that is
            not positive.
    """

    def __init__(
        self,
        train: Config,
        splits: Mapping[str, Config | None],
        count: int = 400,
        ridge: float = 1e-3,
        pixels: bool = False,
    ) -> None:
        check_positive(count=count, ridge=ridge)
        DATASETS.check(train, "train")
        self.train, self.splits = train, check_splits(splits)
        self.count, self.ridge, self.pixels = count, ridge, pixels
        self.constant = pixels  # whatever the weights: run once
        self._composed: dict[str, Scenes] = {}

    def run(self, model: Encoder) -> dict[str, float | np.ndarray]:
        """Returns ``<split>/miou`` and ``<split>/accuracy`` in percent, and ``scenes``, a picture.

        Both leave out the ground: the mean over classes of intersection over union, and the share
        of the drawings' patches whose class is found.

        Raises:
            MissingPart: the image tower has no grid of patches.
        """
        size = model.tower(model.image).input_size
        if size is None:
            raise MissingPart(f"its tower {model.image!r} has no input size")
        blank = np.zeros((1, size, size, 3), np.uint8)
        side = grid_side(_tokens(model, blank).shape[1], size)
        train = self._scenes("train", self.train, size)
        names: dict[str, int] = {}
        labels = _cells(train, side, names)
        readout = fit(self._batches(model, train, side), labels.split(BATCH), self.ridge)

        found: dict[str, float | np.ndarray] = {}
        columns: list[list[np.ndarray]] = []
        for name, cfg in self.splits.items():
            scenes = self._scenes(f"splits[{name!r}]", cfg, size)
            labels = _cells(scenes, side, names)
            guessed = torch.cat([readout(x) for x in self._batches(model, scenes, side)])
            found[f"{name}/miou"] = mean_iou(guessed, labels)
            found[f"{name}/accuracy"] = percent((guessed == labels)[labels > 0])
            rows = spread(self.count, SHOWN)
            columns.append([scenes.images[rows], labels[rows].numpy(), guessed[rows].numpy()])
        if columns and not self.pixels:
            found["scenes"] = _draw(list(self.splits), columns, list(names))
        return found

    def _scenes(self, where: str, cfg: Config, size: int) -> Scenes:
        if where not in self._composed:
            self._composed[where] = compose_scenes(cfg, where, self.count, size)
        return self._composed[where]

    def _batches(self, model: Encoder, scenes: Scenes, side: int) -> Iterator[Tensor]:
        """Yields tokens, or the pixels of patches, ``[B, side * side, D]``."""
        for images in np.split(scenes.images, range(BATCH, len(scenes.images), BATCH)):
            if self.pixels:
                cell = images.shape[1] // side
                pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
                yield F.unfold(pixels, cell, stride=cell).transpose(1, 2)
            else:
                yield _tokens(model, images)


def _tokens(model: Encoder, images: np.ndarray) -> Tensor:
    prepared = from_pixels(model, images)
    with model.evaluating():
        encoding = encode_batch(model.tower(model.image), prepared)
    return encoding.tokens.float().cpu()


def _cells(scenes: Scenes, side: int, names: dict[str, int]) -> Tensor:
    """Returns classes of cells ``[N, side * side]``, numbered by name; 0 is the ground."""
    return class_ids(cell_labels(scenes.labels, side) - 1, scenes.classes, names) + 1


def _draw(
    splits: Sequence[str], columns: Sequence[Sequence[np.ndarray]], names: Sequence[str]
) -> np.ndarray:
    """Draws for each split its scenes ``[N, S, S, 3]`` and two classes of cells ``[N, P]``."""
    colours = palette(len(names))
    table = np.array([WHITE, *colours])
    heads: list[str] = []
    pictures: list[np.ndarray] = []
    for split, (images, *maps) in zip(splits, columns, strict=True):
        heads += [split, "classes", "read out"]
        painted = [0.3 * images + 0.7 * enlarge(table[cells], images.shape[1]) for cells in maps]
        pictures += [images, *(each.astype(np.uint8) for each in painted)]
    occur = np.unique([maps for _, *maps in columns])
    legend = {names[label - 1]: colours[label - 1] for label in occur if label}
    rows = [[Cell(image) for image in row] for row in zip(*pictures, strict=True)]
    return with_legend(draw_grid(heads, rows), legend)
