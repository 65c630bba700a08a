"""MNIST and what is published in its format, such as Fashion-MNIST."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from webssl_plugins.datasets._arrays import ArrayDataset, read_bytes


class IDX(ArrayDataset):
    """Grey pictures and labels in two idx files (http://yann.lecun.com/exdb/mnist).

    Args:
        images: the file of pictures; where it does not exist, the same with ``.gz``.
        labels: the file of their labels, likewise.
        classes: class names in label order; by default the labels themselves.

    Raises:
        FileNotFoundError: at first use, a file is not there.
        ValueError: at first use, a file is not in this format, or they do not belong together.
    """

    def __init__(self, images: str, labels: str, classes: Sequence[str] = ()) -> None:
        self.images, self.labels, self.names = images, labels, tuple(classes)

    def read(self) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        """Reads both files."""
        pictures, labels = _read_idx(self.images, 3), _read_idx(self.labels, 1)
        if not 0 < len(pictures) == len(labels):
            raise ValueError(
                f"{self.images} holds {len(pictures)} pictures, {self.labels} {len(labels)} "
                "labels; take both of the same set"
            )
        highest = int(labels.max())
        names = self.names or tuple(map(str, range(highest + 1)))
        if highest >= len(names):
            raise ValueError(f"{self.labels} has the label {highest}; classes names {len(names)}")
        return pictures, labels, names


def _read_idx(file: str, dimensions: int) -> np.ndarray:
    """Reads an idx file of bytes: two zeros, 8 for bytes, the dimensions and their sizes."""
    data = read_bytes(file)
    start = 4 + 4 * dimensions
    sizes = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) != start + math.prod(sizes):
        raise ValueError(f"{file} is no idx file of {dimensions} dimensions; fetch it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(sizes)
