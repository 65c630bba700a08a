"""scikit-learn's handwritten digits: real pictures that come with a package."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from webssl_plugins.datasets._arrays import ArrayDataset, read_bytes

FILE = "datasets/data/digits.csv"


class Digits(ArrayDataset):
    """1,797 digits of 8 x 8 pixels (UCI, Alpaydin and Kaynak 1998), as scikit-learn ships them.

    The first half is for training, the second for testing, as in scikit-learn's own example.

    Args:
        split: ``'train'`` or ``'test'``.

    Raises:
        ValueError: an unknown split; at first use, scikit-learn is not installed.
    """

    def __init__(self, split: str = "test") -> None:
        if split not in ("train", "test"):
            raise ValueError(f"Digits: split={split!r}; use 'train' or 'test'")
        self.split = split

    def read(self) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        """Reads the table of the package."""
        package = find_spec("sklearn")  # to import it would take seconds
        if package is None or package.origin is None:
            raise ValueError("the digits come with scikit-learn: pip install scikit-learn")
        table = read_bytes(os.path.join(os.path.dirname(package.origin), FILE)).decode("ascii")
        rows = np.loadtxt(table.splitlines(), delimiter=",", dtype=np.int64)
        half = len(rows) // 2
        rows = rows[:half] if self.split == "train" else rows[half:]
        pictures = (rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
        return pictures, rows[:, -1], tuple(map(str, range(10)))
