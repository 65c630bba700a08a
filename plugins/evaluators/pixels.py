"""Nearest neighbours by raw pixels: what a test set gives away to a model that learned nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from webssl_toolbox.data.sample import Dataset
from webssl_toolbox.encoder import Encoder, load_samples
from webssl_toolbox.registry import DATASETS

from ._common import (
    Config,
    check_positive,
    check_splits,
    class_ids,
    knn_classify,
    labelled,
    nearest,
    percent,
)


class PixelNeighbour:
    """Classifies by small pictures on white, with the vote of ``KNN``: a yardstick.

    Named ``<evaluator>_pixels``, it is shown beside that evaluator in the table. Labels of the two
    sets are compared by class name. Samples without a label are left out of both.

    Args:
        train: dataset config of the neighbours.
        splits: name to dataset config of test sets; None removes an inherited one.
        size: side of the pictures compared, in pixels.
        k: neighbours that vote; with 1, the class of the nearest.
        temperature: of the votes.

    Raises:
        ValueError: an unknown dataset or argument in ``train`` or ``splits``, or a number that is
            not positive.
    """

    constant: ClassVar[bool] = True  # whatever the model: run once

    def __init__(
        self,
        train: Config,
        splits: Mapping[str, Config | None],
        size: int = 16,
        k: int = 1,
        temperature: float = 0.07,
    ) -> None:
        check_positive(size=size, k=k, temperature=temperature)
        DATASETS.check(train, "train")
        self.train, self.splits = train, check_splits(splits)
        self.size, self.k, self.temperature = size, k, temperature

    def run(self, model: Encoder) -> dict[str, float]:
        """Returns ``<split>/top1`` in percent; with ``k=1`` also ``top5``, any of the 5 nearest."""
        vocabulary: dict[str, int] = {}
        bank, bank_ids = self._read(self.train, "train", vocabulary)
        metrics: dict[str, float] = {}
        for name, cfg in self.splits.items():
            queries, ids = self._read(cfg, f"splits[{name!r}]", vocabulary)
            found = knn_classify(queries, bank, bank_ids, [self.k], self.temperature)[0]
            metrics[f"{name}/top1"] = percent(found == ids)
            if self.k == 1:
                _, rows = nearest(queries, bank, 5)
                metrics[f"{name}/top5"] = percent((bank_ids[rows] == ids[:, None]).any(1))
        return metrics

    def _read(self, cfg: Config, where: str, vocabulary: dict[str, int]) -> tuple[Tensor, Tensor]:
        """Returns unit vectors ``[N, size * size * 3]`` and class numbers ``[N]``."""
        dataset: Dataset = DATASETS.create(cfg, where)
        vectors, labels = [], []
        for _, sample in load_samples(dataset, range(len(dataset))):
            if sample.image is not None:
                vectors.append(pixel_vector(sample.image, self.size))
                labels.append(sample.label)
        rows = labelled(torch.tensor(labels, dtype=torch.int64), where)
        ids = class_ids(torch.tensor(labels)[rows], dataset.classes, vocabulary)
        return F.normalize(torch.from_numpy(np.stack(vectors))[rows], dim=1), ids


def pixel_vector(image: np.ndarray, size: int) -> np.ndarray:
    """Puts an image on white, shrinks it and subtracts its mean, so that brightness is no cue.

    Args:
        image: uint8 ``[H, W, 3]``, or ``[H, W, 4]`` with straight alpha.
        size: side of the small picture, in pixels.

    Returns:
        float32 ``[size * size * 3]``.
    """
    pixels = image[..., :3].astype(np.float32)
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.float32) / np.float32(255)
        pixels = pixels * alpha + 255 * (1 - alpha)
    small = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA).ravel()
    return small - small.mean()
