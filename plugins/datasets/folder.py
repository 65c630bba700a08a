"""A folder of images, as it lies on a disk, with captions or without."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from webssl_plugins.datasets._common import MAX_TEXT, PackedStrings
from webssl_toolbox.data.image import EXTENSIONS, read_image
from webssl_toolbox.data.sample import Sample, UnreadableSample


class ImageFolder:
    """All images below a folder, however deep, folder by folder in sorted order.

    Hidden files and folders (a leading dot) are left out; links to folders are followed, but for
    those that lead back. The folder is listed at the first use, not when the dataset is built.

    Args:
        root: the folder.
        labels: ``'folders'`` makes each top-level sub-folder a class, in sorted order (an empty one
            too, so that a split which lacks a class keeps the numbers); ``None`` reads no labels.
        captions: ``'files'`` reads those of ``photo.jpg`` from ``photo.txt`` beside it, one a line,
            and leaves out images without; ``'folders'`` takes the name of the top-level sub-folder,
            underscores as spaces; ``None`` reads no captions.
        limit: take at most so many images, evenly spaced: to look at a large folder.
        classes: with ``labels='folders'``, the sub-folders to read, in label order; None for all.

    Raises:
        ValueError: an unknown ``labels`` or ``captions``, or a ``limit`` below one; at first use,
            an image outside every class folder.
        FileNotFoundError: at first use, if there is no such folder, no image in it, or no image
            with a caption file.
        OSError: at first use, if a folder in it cannot be listed.
    """

    synonyms: Mapping[str, Sequence[str]] = {}

    def __init__(
        self,
        root: str,
        labels: str | None = None,
        captions: str | None = None,
        limit: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        if labels not in (None, "folders"):
            raise ValueError(f"ImageFolder: labels={labels!r}; use 'folders' or None")
        if captions not in (None, "files", "folders"):
            raise ValueError(f"ImageFolder: captions={captions!r}; use 'files', 'folders' or None")
        if limit is not None and limit < 1:
            raise ValueError(f"ImageFolder: limit must be at least 1, but it is {limit}")
        if classes is not None and labels is None:
            raise ValueError("ImageFolder: classes names folders; give labels='folders' with it")
        self.root = root
        self.labels = labels
        self.only = classes
        self.captions = captions
        self.limit = limit

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The top-level sub-folders; empty without labels."""
        if self.labels is None:
            return ()
        self._check_root()
        if self.only is not None:
            return tuple(self.only)
        with os.scandir(self.root) as entries:
            return tuple(sorted(e.name for e in entries if e.is_dir() and e.name[0] != "."))

    @cached_property
    def paths(self) -> PackedStrings:
        """Paths relative to the root, with forward slashes."""
        self._check_root()
        paths = PackedStrings(self._walk())
        if not len(paths):
            captioned = " with captions beside it (photo.txt)" if self.captions == "files" else ""
            raise FileNotFoundError(
                f"{self.root}: no image{captioned} found; the folder, or folders in it, must hold "
                f"files that end in {', '.join(EXTENSIONS)}"
            )
        return paths

    def _walk(self) -> Iterator[str]:
        for folder, subfolders, files in os.walk(self.root, onerror=_refuse, followlinks=True):
            subfolders[:] = sorted(name for name in subfolders if _is_ours(folder, name))
            if self.only is not None and folder == self.root:
                subfolders[:] = [name for name in subfolders if name in self._label_of]
            prefix = os.path.relpath(folder, self.root).replace(os.sep, "/") + "/"
            names = set(files)
            for name in sorted(names):
                if name[0] == "." or not name.lower().endswith(EXTENSIONS):
                    continue
                if "folders" in (self.labels, self.captions) and prefix == "./":
                    raise ValueError(
                        f"{os.path.join(folder, name)}: lies in no class folder; move it into one, "
                        "or take neither labels nor captions from folders"
                    )
                if self.captions != "files" or _caption_file(name) in names:
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
        return min(len(self.paths), self.limit or len(self.paths))

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Reads one image with its captions; ``rng`` is not used: a view chooses the caption."""
        key = self.paths[index * len(self.paths) // len(self)]
        path, folder = os.path.join(self.root, key), key.split("/", 1)[0]
        captions: tuple[str, ...] = ()
        if self.captions == "files":
            captions = _read_captions(_caption_file(path))
        elif self.captions == "folders":
            captions = (folder.replace("_", " "),)
        label = self._label_of[folder] if self.labels else -1
        return Sample(read_image(path), captions, label, key)


def _refuse(error: OSError) -> None:
    """Raises what ``os.walk`` would pass over: a run of some of the images."""
    raise error


def _is_ours(folder: str, name: str) -> bool:
    """Returns whether to look into a folder: not where a link leads back, which has no end."""
    path = Path(folder, name)
    if name[0] == "." or name == "lost+found":  # of the file system, which alone may read it
        return False
    return not path.is_symlink() or not any(map(path.samefile, path.absolute().parents))


def _caption_file(image: str) -> str:
    return os.path.splitext(image)[0] + ".txt"


def _read_captions(path: str) -> tuple[str, ...]:
    """Reads one caption a line, without blank lines."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > MAX_TEXT:
            raise UnreadableSample(f"{path}: no file of {MAX_TEXT:,} bytes or fewer")
        with open(path, encoding="utf-8-sig") as file:
            captions = tuple(line.strip() for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        why = f"cannot be read as UTF-8 text ({error})"
        raise UnreadableSample(f"{path}: {why}", "no caption") from error
    if not captions:
        raise UnreadableSample(f"{path}: holds no caption; write one a line", "no caption")
    return captions
