"""Scenes composed of drawings through their alpha masks, with the class of each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from webssl_toolbox.data.rng import sample_rng
from webssl_toolbox.data.sample import Dataset, Sample
from webssl_toolbox.encoder import load_samples
from webssl_toolbox.registry import DATASETS

QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))


class Scenes:
    """Four drawings of different classes on a light ground, the same at every call.

    Each lies in a quarter of its own, 0.4 to 0.6 of the canvas wide, shifted at random; a later one
    may cover the edge of another. Classes are equally frequent, however many drawings they have.
    The first class is the ground.

    Args:
        drawings: dataset config of drawings with alpha masks and labels.
        count: scenes.
        size: their side in pixels.
        name: of the set, in errors; another name gives other scenes.

    Raises:
        ValueError: no sample has a label.
    """

    synonyms: Mapping[str, list[str]] = {}

    def __init__(
        self, drawings: Mapping[str, Any], count: int = 400, size: int = 48, name: str = "scenes"
    ) -> None:
        self.dataset: Dataset = DATASETS.create(drawings, name)
        self.count, self.size, self.name = count, size, name
        self.classes = ["ground", *self.dataset.classes]
        self._drawings: dict[int, list[int]] = {}
        for i, sample in load_samples(self.dataset, range(len(self.dataset))):
            if sample.label >= 0:
                self._drawings.setdefault(sample.label, []).append(i)
        if not self._drawings:
            raise ValueError(f"{name}: no sample has a label; choose a dataset with classes")

    def __len__(self) -> int:
        return self.count

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Returns an RGB image and its map of classes; a function of name and index alone.

        Raises:
            ValueError: a drawing has no alpha mask.
        """
        own = sample_rng(0, 0, index, f"scene/{self.name}")
        image = np.empty((self.size, self.size, 3), np.uint8)
        image[:] = own.integers(192, 256, size=3)
        label_map = np.zeros((self.size, self.size), np.uint16)
        classes = own.permutation(sorted(self._drawings))[: len(QUARTERS)]
        chosen = [int(own.choice(self._drawings[label])) for label in classes]
        for quarter, (_, sample) in zip(QUARTERS, load_samples(self.dataset, chosen), strict=False):
            if sample.image is None or sample.image.shape[2] != 4:
                raise ValueError(
                    f"{self.name}: {sample.key or 'an image'} has no alpha mask; choose drawings "
                    "on a transparent ground, such as Emoji"
                )
            _place(image, label_map, sample.image, 1 + sample.label, quarter, own)
        return Sample(image, key=f"{self.name}/{index}", label_map=label_map)


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
