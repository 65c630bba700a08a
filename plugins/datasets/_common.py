"""What the datasets share: strings in little memory, a look at images, and what lists may say."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable

import numpy as np

from webssl_toolbox.data.sample import UnreadableSample

FIRST = 16  # images that are looked for before training starts
# Bytes of the captions of an image; more is no caption, but a way to fill memory.
MAX_TEXT = 1 << 17


class PackedStrings:
    """A read-only list of strings in two buffers.

    Fifteen million ``str`` objects take gigabytes, and every forked worker copies their pages by
    counting references; bytes and an offset array are shared.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        text, offsets = bytearray(), array("q", [0])
        for string in strings:
            text += string.encode("utf-8", "surrogatepass")  # file names may be any bytes
            offsets.append(len(text))
        self._text = bytes(text)
        self._offsets = np.array(offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:
        start, stop = self._offsets[index], self._offsets[index + 1]
        return self._text[start:stop].decode("utf-8", "surrogatepass")


def check_images(file: str, root: str, paths: Iterable[str]) -> None:
    """Refuses a ``root`` that holds none of ``paths``, the first images that ``file`` lists.

    A few may be missing, and are replaced when they are loaded; all of them mean a wrong folder.

    Raises:
        FileNotFoundError: names ``root`` and the first image that is not there.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(
            f"{root}: no such folder; root must hold the images that {file} lists"
        )
    wanted = [os.path.join(root, path) for path in paths]
    if wanted and not any(map(os.path.exists, wanted)):
        raise FileNotFoundError(
            f"{wanted[0]}: no such file, nor any of the first {len(wanted)} images that {file} "
            "lists; root must be the folder that its paths start from"
        )


def below(root: str | None, path: str) -> str:
    """Returns the file of an image that a list names: below ``root``, if there is one.

    Whoever wrote the list could otherwise have any file of this machine opened. Links are followed:
    what lies in ``root`` is its owner's choice.

    Raises:
        UnreadableSample: it lies elsewhere, or nowhere.
    """
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half of a character, as JSON can spell it
        possible = False
    if not possible:
        raise UnreadableSample(f"{path!r:.200} can be the name of no file")
    if root is None:
        return path
    top, file = os.path.abspath(root), os.path.abspath(os.path.join(root, path))
    if not file.startswith(os.path.join(top, "")):
        raise UnreadableSample(
            f"{path!r:.200} does not lie below root={root!r}, as all must; or leave root out"
        )
    return os.path.join(root, path)
