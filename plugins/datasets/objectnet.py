"""ObjectNet's images of classes that ImageNet has, too."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from webssl_toolbox.data.sample import Dataset, Sample
from webssl_toolbox.registry import DATASETS

BORDER = 2  # pixels that its authors framed in red, to be found where they were trained on


class ObjectNet:
    """113 of ObjectNet's 313 classes, for testing alone, as its licence asks (Barbu et al. 2019).

    Args:
        root: the folder ``objectnet-1.0``, with ``images`` and ``mappings``.

    Raises:
        FileNotFoundError: at first use, one of them is not there.
        ValueError: at first use, mappings of another format.
    """

    synonyms: Mapping[str, Sequence[str]] = {}

    def __init__(self, root: str) -> None:
        self.root = root

    @cached_property
    def _names(self) -> dict[str, str]:
        """Folder to class, of those that ImageNet has."""
        names = self._mapping("folder_to_objectnet_label.json")
        shared = self._mapping("objectnet_to_imagenet_1k.json")
        return {folder: str(name) for folder, name in sorted(names.items()) if name in shared}

    def _mapping(self, name: str) -> dict[str, Any]:
        file = os.path.join(self.root, "mappings", name)
        try:
            with open(file, encoding="utf-8") as stream:
                return dict(json.load(stream))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{file}: no such file") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{file}: not one JSON object; unpack it again") from error

    @cached_property
    def _images(self) -> Dataset:
        folder = os.path.join(self.root, "images")
        cfg = dict(type="ImageFolder", root=folder, labels="folders", classes=list(self._names))
        return DATASETS.create(cfg, "ObjectNet")

    @property
    def classes(self) -> Sequence[str]:
        """Class names in label order."""
        return list(self._names.values())

    def __len__(self) -> int:
        return len(self._images)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Reads one image, without its frame."""
        sample = self._images.load(index, rng)
        assert sample.image is not None
        inner = np.ascontiguousarray(sample.image[BORDER:-BORDER, BORDER:-BORDER])
        return Sample(inner, label=sample.label, key=sample.key)
