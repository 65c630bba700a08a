"""Published data sets by name, in the folder that the user keeps them in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from webssl_plugins.datasets._published import SETS
from webssl_toolbox.data.sample import Dataset, MissingData, Sample
from webssl_toolbox.registry import DATASETS, nearest

NAMES = Path(__file__).parent / "class_names"


class Published:
    """A data set that evaluations are published on, with class names that a sentence can hold.

    It is read at the first use, in the layout of its archive: docs/suites.md lists all.

    Args:
        name: ``'food101'``, ``'imagenet'`` ...
        root: the folder that data sets lie in.
        split: ``'test'``, or ``'train'`` for a probe.

    Raises:
        ValueError: an unknown name or split, or no training images; at first use, a class that is
            none of this data set.
        MissingData: at first use, it is not there; says what to put where.
    """

    synonyms: Mapping[str, Sequence[str]] = {}

    def __init__(self, name: str, root: str, split: str = "test") -> None:
        if name not in SETS:
            raise ValueError(f"no published data set is called {name!r}{nearest(name, SETS)}")
        recipe = SETS[name]
        found = {"test": recipe.test, "train": recipe.train}.get(split)
        if found is None:
            raise ValueError(
                f"{name} has no split {split!r}; it has 'test'"
                + " and 'train'" * (recipe.train is not None)
            )
        self.name, self.root, self.config = name, root, _placed(found, root)

    @cached_property
    def _inner(self) -> Dataset:
        if self.config["type"] == "MMPretrainDataset" and find_spec("mmpretrain") is None:
            raise MissingData(
                f"{self.name} is read through mmpretrain: pip install 'webssl-toolbox[mmpretrain]'"
            )
        dataset: Dataset = DATASETS.create(self.config, self.name)
        try:
            len(dataset)
        except FileNotFoundError as error:
            why = str(error).partition(";")[0]
            raise MissingData(
                f"{self.name} is missing ({why}); in {self.root}, {SETS[self.name].get}"
            ) from error
        return dataset

    @cached_property
    def classes(self) -> Sequence[str]:
        """Readable class names in label order."""
        names, kind = self._inner.classes, SETS[self.name].names
        if kind == "CamelCase":
            return [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name) for name in names]
        if kind is None:
            return [name.replace("_", " ") for name in names]
        lines = (NAMES / f"{kind}.txt").read_text(encoding="utf-8").splitlines()
        table = dict(line.split(" ", 1) for line in lines)
        return [self._readable(name, table) for name in names]

    def _readable(self, name: str, table: Mapping[str, str]) -> str:
        """Looks a class up, or, where it is a number, the class of that place (ImageNet-V2)."""
        if name in table:
            return table[name]
        if name.isdecimal() and int(name) < len(table):
            return list(table.values())[int(name)]
        raise ValueError(f"{name!r} is no class of {self.name}{nearest(name, table)}")

    def __len__(self) -> int:
        return len(self._inner)

    def captions_of(self, index: int) -> Sequence[str]:
        """Returns the captions of an image without reading it."""
        return self._inner.captions_of(index)  # type: ignore[attr-defined]

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Reads one sample."""
        return self._inner.load(index, rng)


def _placed(value: Any, root: str) -> Any:
    """Fills the folder into a config."""
    if isinstance(value, Mapping):
        return {key: _placed(entry, root) for key, entry in value.items()}
    return value.replace("{}", root) if isinstance(value, str) else value
