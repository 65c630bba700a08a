"""A folder of images, as it lies on a disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from webssl_plugins.datasets._common import PackedStrings
from webssl_toolbox.data.image import EXTENSIONS, read_image
from webssl_toolbox.data.sample import Sample


class ImageFolder:
    """All images below a folder, however deep, folder by folder in sorted order.

    Hidden files and folders (a leading dot) are left out; links to folders are followed. The folder
    is listed at the first use, not when the dataset is built.

    Args:
        root: the folder.
        labels: ``'folders'`` makes each top-level sub-folder a class, in sorted order (an empty one
            too, so that a split which lacks a class keeps the numbers); ``None`` reads no labels.

    Raises:
        ValueError: an unknown ``labels``; at first use, an image outside every class folder.
        FileNotFoundError: at first use, if there is no such folder or no image in it.
    """

    synonyms: Mapping[str, Sequence[str]] = {}

    def __init__(self, root: str, labels: str | None = None) -> None:
        if labels not in (None, "folders"):
            raise ValueError(f"ImageFolder: labels={labels!r}; use 'folders' or None")
        self.root = root
        self.labels = labels

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The top-level sub-folders; empty without labels."""
        if self.labels is None:
            return ()
        self._check_root()
        with os.scandir(self.root) as entries:
            return tuple(sorted(e.name for e in entries if e.is_dir() and e.name[0] != "."))

    @cached_property
    def _paths(self) -> PackedStrings:
        """Paths relative to the root, with forward slashes."""
        self._check_root()
        paths = PackedStrings(self._walk())
        if not len(paths):
            raise FileNotFoundError(
                f"{self.root}: no image found; the folder, or folders in it, must hold files that "
                f"end in {', '.join(EXTENSIONS)}"
            )
        return paths

    def _walk(self) -> Iterator[str]:
        for folder, subfolders, files in os.walk(self.root, followlinks=True):
            subfolders[:] = sorted(name for name in subfolders if name[0] != ".")
            prefix = os.path.relpath(folder, self.root).replace(os.sep, "/") + "/"
            for name in sorted(files):
                if name[0] != "." and name.lower().endswith(EXTENSIONS):
                    if self.labels and prefix == "./":
                        raise ValueError(
                            f"{os.path.join(folder, name)}: lies in no class folder; move it into "
                            "one, or set labels=None"
                        )
                    yield (prefix + name).removeprefix("./")

    @cached_property
    def _label_of(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.classes)}

    def _check_root(self) -> None:
        if not os.path.isdir(self.root):
            raise FileNotFoundError(
                f"{self.root}: no such folder; root must be a folder that holds images "
                f"({', '.join(EXTENSIONS)}), in sub-folders or not"
            )

    def __len__(self) -> int:
        return len(self._paths)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Reads one image; ``rng`` is not used, a folder has nothing to choose."""
        key = self._paths[index]
        label = self._label_of[key.split("/", 1)[0]] if self.labels else -1
        return Sample(read_image(os.path.join(self.root, key)), label=label, key=key)
