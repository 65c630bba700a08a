"""COCO captions, from the annotation file as it is published."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from webssl_plugins.datasets._common import FIRST, MAX_TEXT, PackedStrings, below, check_images
from webssl_toolbox.data.image import read_image
from webssl_toolbox.data.sample import Sample

Row = Mapping[str, Any]


class CocoCaptions:
    """Images with the captions that people wrote, five to an image (COCO, arXiv:1504.00325).

    A sample is one image with all its captions, in the order of the file; images without captions
    are left out. The file is read at the first use, not when the dataset is built.

    Args:
        file: ``annotations/captions_train2017.json``, or another in its format: ``images`` with
            ``id`` and ``file_name``, ``annotations`` with ``image_id`` and ``caption``.
        root: the folder that the file names start from: ``train2017``.

    Raises:
        ValueError: at first use, a file that is not COCO's, or that holds no captions.
        FileNotFoundError: at first use, if ``file`` or ``root`` does not exist, or ``root`` holds
            none of the first images.
    """

    classes: Sequence[str] = ()
    synonyms: Mapping[str, Sequence[str]] = {}

    def __init__(self, file: str, root: str) -> None:
        self.file = file
        self.root = root

    @cached_property
    def _index(self) -> tuple[PackedStrings, PackedStrings, np.ndarray]:
        """Paths, captions, and where the captions of each image start; one more start ends it."""
        images, annotations = self._read()
        try:
            captions: dict[int, list[str]] = {image["id"]: [] for image in images}
            for row in annotations:
                captions[row["image_id"]].append(_text(row["caption"]))
            found = [(_text(image["file_name"]), captions[image["id"]]) for image in images]
        except TypeError as error:
            raise ValueError(f"{self.file}: {error}; fetch the file again") from error
        except KeyError as error:
            raise ValueError(
                f"{self.file}: an image or a caption refers to {error}, which is not there; fetch "
                "the file again"
            ) from error
        found = [(path, texts) for path, texts in found if texts]
        check_images(self.file, self.root, [path for path, _ in found[:FIRST]])
        starts = np.cumsum([0, *(len(texts) for _, texts in found)])
        flat = PackedStrings(text for _, texts in found for text in texts)
        return PackedStrings(path for path, _ in found), flat, starts

    def _read(self) -> tuple[list[Row], list[Row]]:
        """Returns the images and the annotations, once these are known to be captions."""
        if not os.path.isfile(self.file):
            raise FileNotFoundError(
                f"{self.file}: no such file; it must be one of COCO's captions_*.json"
            )
        try:
            with open(self.file, encoding="utf-8") as stream:
                content = json.load(stream)
            images, annotations = content["images"], content["annotations"]
            if not all(isinstance(row, dict) for row in (*images, *annotations)):
                raise TypeError("a row is no object")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{self.file}: not one JSON object with 'images' and 'annotations', as COCO's "
                "captions are; for JSON lines use type='ImageTextList'"
            ) from error
        if not annotations:
            raise ValueError(f"{self.file}: holds no annotations; take a captions_*.json with some")
        if "caption" not in annotations[0]:
            raise ValueError(
                f"{self.file}: its annotations have no 'caption' but "
                f"{', '.join(map(repr, annotations[0]))}; take captions_*.json of the same images"
            )
        return images, annotations

    def __len__(self) -> int:
        return len(self._index[0])

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns the captions of an image without reading it."""
        _, captions, starts = self._index
        return tuple(captions[i] for i in range(starts[index], starts[index + 1]))

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Reads one image with its captions; ``rng`` is not used: a view chooses the caption."""
        path = self._index[0][index]
        return Sample(read_image(below(self.root, path)), self.captions_of(index), key=path)


def _text(value: Any) -> str:
    """Returns a string of bounded length; raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.50} should be a string")
    return value[:MAX_TEXT]
