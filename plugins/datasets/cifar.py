"""CIFAR-10 and CIFAR-100, from their binary version."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from webssl_plugins.datasets._arrays import ArrayDataset, read_bytes

TEN, HUNDRED = "batches.meta.txt", "fine_label_names.txt"
FILES = {
    (TEN, "train"): [f"data_batch_{i}.bin" for i in range(1, 6)],
    (TEN, "test"): ["test_batch.bin"],
    (HUNDRED, "train"): ["train.bin"],
    (HUNDRED, "test"): ["test.bin"],
}
PICTURE = (3, 32, 32)


class CIFAR(ArrayDataset):
    """The folder ``cifar-10-batches-bin`` or ``cifar-100-binary`` as it is published.

    The version for Python is not read: it is a pickle, which may run code.

    Args:
        root: the folder.
        split: ``'train'`` or ``'test'``.

    Raises:
        ValueError: an unknown split; at first use, a file of another format.
        FileNotFoundError: at first use, no such folder, or not the binary version.
    """

    def __init__(self, root: str, split: str = "test") -> None:
        if split not in ("train", "test"):
            raise ValueError(f"CIFAR: split={split!r}; use 'train' or 'test'")
        self.root, self.split = root, split

    def read(self) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        """Reads the batches; of CIFAR-100 the fine labels."""
        found = [kind for kind in (TEN, HUNDRED) if os.path.isfile(os.path.join(self.root, kind))]
        if not found:
            raise FileNotFoundError(
                f"{self.root}: holds neither {TEN} nor {HUNDRED}; unpack cifar-10-binary.tar.gz or "
                "cifar-100-binary.tar.gz, since the version for Python is a pickle"
            )
        kind = found[0]
        text = read_bytes(os.path.join(self.root, kind)).decode("utf-8")
        names = [line.strip().replace("_", " ") for line in text.splitlines() if line.strip()]
        size = (1 if kind == TEN else 2) + int(np.prod(PICTURE))  # a coarse label comes first
        rows = []
        for file in FILES[kind, self.split]:
            data = np.frombuffer(read_bytes(os.path.join(self.root, file)), np.uint8)
            if not len(data) or len(data) % size:
                raise ValueError(f"{self.root}/{file} is not of CIFAR's binary version")
            rows.append(data.reshape(-1, size))
        joined = np.concatenate(rows)
        labels = joined[:, -int(np.prod(PICTURE)) - 1]
        if labels.max() >= len(names):
            raise ValueError(f"{self.root}: the label {labels.max()} has no name in {kind}")
        pictures = joined[:, -int(np.prod(PICTURE)) :].reshape(-1, *PICTURE)
        return pictures.transpose(0, 2, 3, 1), labels, names
