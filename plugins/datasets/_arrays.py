"""A dataset that fits into memory: pictures as one array."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from webssl_toolbox.data.sample import Sample

MAX_BYTES = 1 << 30


class ArrayDataset:
    """Pictures of one size with labels; a subclass reads them, at the first use."""

    synonyms: Mapping[str, Sequence[str]] = {}

    def read(self) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        """Returns pictures, uint8 ``[N, H, W]`` or ``[N, H, W, 3]``, labels ``[N]``, and names."""
        raise NotImplementedError

    @cached_property
    def _data(self) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        return self.read()

    @property
    def classes(self) -> Sequence[str]:
        """Class names in label order."""
        return self._data[2]

    def __len__(self) -> int:
        return len(self._data[0])

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Returns one picture, a grey one as RGB; ``rng`` is not used."""
        pictures, labels, _ = self._data
        picture = pictures[index]
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=2)
        return Sample(picture, label=int(labels[index]), key=str(index))


def read_bytes(file: str) -> bytes:
    """Reads a file, unpacked or not: ``file`` or ``file.gz``.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: it holds more than ``MAX_BYTES``, or is no gzip file.
    """
    try:
        if os.path.isfile(file):
            with open(file, "rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        else:
            with gzip.open(f"{file}.gz", "rb") as stream:
                data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: no such file, nor {os.path.basename(file)}.gz") from error
    except (OSError, EOFError) as error:
        raise ValueError(f"{file}.gz cannot be read ({error}); fetch it again") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"{file} holds more than {MAX_BYTES:,} bytes; it must be another file")
    return data
