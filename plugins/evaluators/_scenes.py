"""Scenes composed of drawings, whole: what a dense probe is read out on, a label for each cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from webssl_toolbox.data.rng import sample_rng
from webssl_toolbox.registry import DATASETS

from ._common import Config


class Scenes(NamedTuple):
    """Images, and what their pixels belong to.

    Attributes:
        images: uint8 ``[N, S, S, 3]``.
        labels: uint16 ``[N, S, S]``, 0 for the ground and 1 + the class of a drawing.
        classes: names of the drawings' classes.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]


def compose_scenes(cfg: Config, where: str, count: int, size: int) -> Scenes:
    """Composes the scenes of the data set ``Scenes``, the same at every call.

    Args:
        cfg: dataset config of drawings with alpha masks and labels.
        where: names it in errors, and makes its scenes others than those of another set.
        count: scenes.
        size: their side in pixels.

    Raises:
        ValueError: no sample has a label, or one has no alpha mask.
    """
    scenes = {"type": "Scenes", "drawings": cfg, "name": where, "count": count, "size": size}
    dataset = DATASETS.create(scenes, where)
    samples = [dataset.load(i, sample_rng(0, 0, i)) for i in range(count)]
    images, labels = (np.stack([getattr(s, of) for s in samples]) for of in ("image", "label_map"))
    return Scenes(images, labels, dataset.classes[1:])


def cell_labels(labels: np.ndarray, side: int) -> Tensor:
    """Returns what covers most of each cell of a grid; of equal shares the lower label.

    Args:
        labels: uint16 ``[N, S, S]``.
        side: cells of a row; S is a multiple of it.

    Returns:
        int64 ``[N, side * side]``, row by row.
    """
    cell = labels.shape[1] // side
    cells = labels.reshape(-1, side, cell, side, cell).swapaxes(2, 3).reshape(-1, cell**2)
    counts = np.stack([(cells == label).sum(1) for label in range(labels.max() + 1)], axis=1)
    return torch.from_numpy(counts.argmax(1)).view(len(labels), side**2)
