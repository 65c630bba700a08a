"""Scenes composed of drawings: what a dense probe is read out on, with a label for each cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from webssl_toolbox.data.rng import sample_rng
from webssl_toolbox.data.sample import Dataset
from webssl_toolbox.encoder import load_samples
from webssl_toolbox.registry import DATASETS

from ._common import Config

QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))


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
    """Places four drawings of different classes on a light ground, the same at every call.

    Each lies in a quarter of its own, 0.4 to 0.6 of the canvas wide, shifted at random; a later one
    may cover the edge of another. Classes are equally frequent, however many drawings they have.

    Args:
        cfg: dataset config of drawings with alpha masks and labels.
        where: names it in errors, and makes its scenes others than those of another set.
        count: scenes.
        size: their side in pixels.

    Raises:
        ValueError: no sample has a label, or one has no alpha mask.
    """
    dataset: Dataset = DATASETS.create(cfg, where)
    drawings: dict[int, list[int]] = {}
    for i, sample in load_samples(dataset, range(len(dataset))):
        if sample.label >= 0:
            drawings.setdefault(sample.label, []).append(i)
    if not drawings:
        raise ValueError(f"{where}: no sample has a label; choose a dataset with classes")
    images = np.empty((count, size, size, 3), np.uint8)
    labels = np.zeros((count, size, size), np.uint16)
    for i in range(count):
        rng = sample_rng(0, 0, i, f"scene/{where}")
        images[i] = rng.integers(192, 256, size=3)
        classes = rng.permutation(sorted(drawings))[: len(QUARTERS)]
        chosen = [int(rng.choice(drawings[label])) for label in classes]
        for quarter, (_, sample) in zip(QUARTERS, load_samples(dataset, chosen), strict=False):
            if sample.image is None or sample.image.shape[2] != 4:
                raise ValueError(
                    f"{where}: {sample.key or 'an image'} has no alpha mask; choose drawings on a "
                    "transparent ground, such as Emoji"
                )
            _place(images[i], labels[i], sample.image, 1 + sample.label, quarter, rng)
    return Scenes(images, labels, dataset.classes)


def _place(
    image: np.ndarray,
    labels: np.ndarray,
    drawing: np.ndarray,
    label: int,
    quarter: tuple[int, int],
    rng: np.random.Generator,
) -> None:
    """Draws uint8 RGBA into a scene; pixels that it covers by half and more are its own."""
    size = len(image)
    side = round(size * rng.uniform(0.4, 0.6))
    slack = size // 2 - side
    top, left = (
        int(np.clip(at * (size // 2) + slack * rng.random(), 0, size - side)) for at in quarter
    )
    # Premultiplied: the colour of pixels that alpha hides must not bleed into the edge.
    alpha: np.ndarray = drawing[..., 3:] / np.float32(255)
    small = cv2.resize(
        np.concatenate([drawing[..., :3] * alpha, alpha], axis=2),
        (side, side),
        interpolation=cv2.INTER_AREA,
    )
    alpha = small[..., 3:]
    field = (slice(top, top + side), slice(left, left + side))
    image[field] = (image[field] * (1 - alpha) + small[..., :3]).round()
    labels[field][alpha[..., 0] >= 0.5] = label


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
