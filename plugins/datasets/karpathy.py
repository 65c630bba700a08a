"""COCO and Flickr30k for retrieval, in the splits of Karpathy and Fei-Fei."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from webssl_plugins.datasets._common import FIRST, MAX_TEXT, PackedStrings, below, check_images
from webssl_toolbox.data.image import read_image
from webssl_toolbox.data.sample import Sample


class KarpathyCaptions:
    """``dataset_coco.json`` or ``dataset_flickr30k.json`` (arXiv:1412.2306), five captions each.

    A few images of COCO have more: the first five count, as in published results.

    Args:
        file: the list.
        root: the folder that its images lie in: the one with ``val2014`` in it, or
            ``flickr30k-images``.
        split: ``'train'``, ``'restval'`` (COCO alone), ``'val'`` or ``'test'``.

    Raises:
        ValueError: at first use, a file in another format, or one without this split.
        FileNotFoundError: at first use, if ``file`` or ``root`` does not exist, or ``root`` holds
            none of the first images.
    """

    classes: Sequence[str] = ()
    synonyms: Mapping[str, Sequence[str]] = {}

    def __init__(self, file: str, root: str, split: str = "test") -> None:
        self.file, self.root, self.split = file, root, split

    @cached_property
    def _index(self) -> tuple[PackedStrings, list[tuple[str, ...]]]:
        """Paths, and the captions of each image."""
        if not os.path.isfile(self.file):
            raise FileNotFoundError(f"{self.file}: no such file")
        try:
            with open(self.file, encoding="utf-8") as stream:
                rows = [r for r in json.load(stream)["images"] if r["split"] == self.split]
            paths = [os.path.join(r.get("filepath", ""), r["filename"]) for r in rows]
            texts = [tuple(s["raw"].strip()[:MAX_TEXT] for s in r["sentences"][:5]) for r in rows]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{self.file}: not in the format of dataset_coco.json and dataset_flickr30k.json"
            ) from error
        if not rows:
            raise ValueError(f"{self.file}: has no image in split={self.split!r}")
        check_images(self.file, self.root, paths[:FIRST])
        return PackedStrings(paths), texts

    def __len__(self) -> int:
        return len(self._index[0])

    def captions_of(self, index: int) -> Sequence[str]:
        """Returns the captions of an image without reading it."""
        return self._index[1][index]

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Reads one image with its captions; ``rng`` is not used: a view chooses the caption."""
        path = self._index[0][index]
        return Sample(read_image(below(self.root, path)), self._index[1][index], key=path)
