"""What the datasets share: millions of strings in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np


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
