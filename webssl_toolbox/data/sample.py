"""What a dataset yields, and the protocol of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One decoded sample, before any view is cut from it.

    Attributes:
        image: uint8 ``[H, W, 3]`` RGB, or ``[H, W, 4]`` with an alpha mask; None for text alone.
        captions: the texts that describe the image, best first; empty for images alone.
        label: class index, -1 where there is none.
        key: names the sample in reports (a path, or ``designer/concept``).
        stratum: number in [0, 1) that spreads evenly over the global batch, in each view another;
            set for views that ask for it, None outside of a batch.
        label_map: uint16 ``[H, W]``, the class of each pixel; None where there is none.
    """

    image: np.ndarray | None
    captions: tuple[str, ...] = ()
    label: int = -1
    key: str = ""
    stratum: float | None = None
    label_map: np.ndarray | None = None


class Dataset(Protocol):
    """A finite set of samples; an epoch visits each index once, in an order that the sampler draws.

    ``load`` must be a function of its arguments alone: ``rng`` is seeded from
    ``(seed, epoch, index)``, so a dataset that chooses (a designer, a caption) draws from it.
    It raises ``UnreadableSample`` for a file that cannot be decoded: the loader substitutes another
    sample, and counts.
    """

    classes: Sequence[str]
    """Class names in label order; empty without labels."""

    synonyms: Mapping[str, Sequence[str]]
    """Lower-case word to words that may replace it; empty where the dataset knows none."""

    def __len__(self) -> int: ...

    def load(self, index: int, rng: np.random.Generator) -> Sample: ...


class MissingData(FileNotFoundError):
    """A published data set is not there: evaluators give None for it, and tables say so."""


class UnreadableSample(ValueError):
    """A sample that cannot be decoded; the message names the file and why, ``kind`` is counted."""

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind
