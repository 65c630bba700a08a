"""Several datasets as one: pairs beside lone images, captions from two sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from webssl_toolbox.data.sample import Dataset, Sample
from webssl_toolbox.registry import DATASETS


class Concat:
    """One dataset after the other; an epoch visits each sample of all of them.

    Samples may lack what others have: let the views of images or captions begin with ``Optional``.
    Labels are left out, since the lists of classes differ.

    Args:
        datasets: ``{name: dict(type=...)}``; None removes an inherited one.

    Raises:
        ValueError: there is none, or one of an unknown type or argument.
    """

    classes: Sequence[str] = ()

    def __init__(self, datasets: Mapping[str, Mapping[str, Any] | None]) -> None:
        self.datasets: dict[str, Dataset] = {
            name: DATASETS.create(cfg, f"datasets.{name}")
            for name, cfg in datasets.items()
            if cfg is not None
        }
        if not self.datasets:
            raise ValueError("Concat: datasets names none; give at least one")

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(dataset) for dataset in self.datasets.values()])

    @property
    def synonyms(self) -> Mapping[str, Sequence[str]]:
        """Those of all datasets; where two know a word, the first one's."""
        return {
            word: others
            for dataset in reversed(self.datasets.values())
            for word, others in dataset.synonyms.items()
        }

    def prepare(self) -> None:
        """Prepares each dataset that asks for it."""
        for dataset in self.datasets.values():
            if hasattr(dataset, "prepare"):
                dataset.prepare()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Reads one sample; its key begins with the name of its dataset."""
        place = int(np.searchsorted(self._ends, index, side="right"))
        name, dataset = list(self.datasets.items())[place]
        sample = dataset.load(index - int(self._ends[place]) + len(dataset), rng)
        return Sample(sample.image, sample.captions, key=f"{name}/{sample.key}")
