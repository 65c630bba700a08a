"""Data sets that mmpretrain reads in the layout in which they are published."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

from webssl_plugins.datasets._common import FIRST, PackedStrings, below, check_images
from webssl_toolbox.compat import import_torchvision
from webssl_toolbox.data.image import read_image
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.registry import nearest

# Those that read lists and MATLAB files. Others read pickles, download, or hold no classes.
READERS = (
    "CUB",
    "Caltech101",
    "DTD",
    "FGVCAircraft",
    "Flowers102",
    "Food101",
    "OxfordIIITPet",
    "SUN397",
    "StanfordCars",
)
ELSEWHERE = {
    "CIFAR10": "type='CIFAR' on the binary version, since the version for Python is a pickle",
    "CIFAR100": "type='CIFAR' on the binary version, since the version for Python is a pickle",
    "MNIST": "type='IDX'",
    "FashionMNIST": "type='IDX'",
    "ImageNet": "type='ImageFolder' with labels='folders'",
}


class MMPretrainDataset:
    """One of ``READERS``: ``dataset=dict(type='Food101', data_root='food-101', split='test')``.

    mmpretrain reads the lists of images and labels, at the first use; the images are read as those
    of any dataset. Class names are mmpretrain's; where it has none, numbers from 1.

    Args:
        dataset: ``type`` is a class of ``READERS``, ``data_root`` a folder of this machine,
            ``split`` what the class takes.

    Raises:
        ValueError: another type or argument; at first use, mmpretrain is not installed, or what
            lies in the folder is not in the layout.
        FileNotFoundError: at first use, the folder or a list in it is not there.
    """

    synonyms: Mapping[str, Sequence[str]] = {}

    def __init__(self, dataset: Mapping[str, Any]) -> None:
        name, root = dataset.get("type"), dataset.get("data_root")
        if name not in READERS:
            other = ELSEWHERE.get(str(name))
            hint = f"; take {other}" if other else nearest(str(name), READERS)
            raise ValueError(f"dataset.type {name!r} is not read through mmpretrain{hint}")
        if dataset.keys() != {"type", "data_root", "split"}:
            raise ValueError(f"dataset of {name} takes type, data_root and split, and needs all")
        if not isinstance(root, str) or "://" in root:  # mmengine would fetch it
            raise ValueError(f"dataset.data_root must be a folder of this machine, not {root!r}")
        self.name, self.root, self.split = str(name), root, str(dataset["split"])

    @cached_property
    def _index(self) -> tuple[PackedStrings, np.ndarray, Sequence[str]]:
        """Paths below the root, labels and class names."""
        if not os.path.isdir(self.root):
            raise FileNotFoundError(f"{self.root}: no such folder")
        reader = getattr(_library(), self.name)
        from mat4py.loadmat import ParseError  # comes with mmpretrain

        try:
            read = reader(data_root=self.root, split=self.split, lazy_init=True)
            rows = read.load_data_list()
            paths = [os.path.relpath(row["img_path"], self.root) for row in rows]
            labels = np.array([int(row["gt_label"]) for row in rows], dtype=np.int64)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error.filename or self.root}: no such file") from error
        except (
            AssertionError,
            LookupError,
            OSError,
            ParseError,
            RuntimeError,
            TypeError,
            ValueError,
            struct.error,
            zlib.error,
        ) as error:
            why = " ".join(str(error).partition("\n")[0].split()) or type(error).__name__
            if "incorrectly organized" in why:  # what it says where files are missing
                raise FileNotFoundError(f"{self.root}: not what {self.name} unpacks to") from error
            raise ValueError(
                f"{self.root}: mmpretrain cannot read split={self.split!r} of {self.name} ({why})"
            ) from error
        if not rows:
            raise ValueError(f"{self.root}: split={self.split!r} of {self.name} has no image")
        names = read.CLASSES or [str(i) for i in range(1, labels.max() + 2)]
        if not 0 <= labels.min() <= labels.max() < len(names):
            raise ValueError(f"{self.root}: {self.name} has labels outside of its classes")
        check_images(f"the list of {self.name}", self.root, paths[:FIRST])
        return PackedStrings(paths), labels, list(names)

    @property
    def classes(self) -> Sequence[str]:
        """Class names in label order."""
        return self._index[2]

    def __len__(self) -> int:
        return len(self._index[0])

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Reads one image; ``rng`` is not used."""
        path = self._index[0][index]
        return Sample(read_image(below(self.root, path)), (), int(self._index[1][index]), path)


def _library() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they deprecate things at one another
            import_torchvision()
            return import_module("mmpretrain.datasets")
    except ImportError as error:
        raise ValueError(
            f"MMPretrainDataset needs {error.name}, which is not installed; "
            "pip install 'webssl-toolbox[mmpretrain]'"
        ) from error
