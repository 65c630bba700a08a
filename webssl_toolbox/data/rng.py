"""Every random draw of a sample is a function of names and numbers, never of history."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


@lru_cache(maxsize=4096)
def stable_hash(text: str) -> int:
    """Returns 63 bits of BLAKE2b: the same in every process, unlike ``hash``."""
    data = text.encode("utf-8", "surrogatepass")  # JSON can spell half of a character
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


def sample_rng(seed: int, epoch: int, index: int, name: str = "") -> np.random.Generator:
    """Returns the generator of one sample in one view.

    Philox is counter-based: any key starts a stream of its own, at the cost of microseconds,
    and two views of a sample do not share draws.
    """
    key = np.array([stable_hash(f"{seed}/{name}"), (epoch << 40) | index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(_Key(key)))  # type: ignore[arg-type]


@lru_cache(maxsize=8)
def strata(seed: int, epoch: int, batch: int, rows: int, name: str = "") -> list[float]:
    """Returns numbers in [0, 1) that spread evenly over the rows of a batch, in a random order.

    One lies in each of ``rows`` equal intervals. Whoever draws a row knows them: no rank or worker
    asks another.

    Args:
        seed: of the run.
        epoch: which.
        batch: which of the epoch.
        rows: of the global batch.
        name: of the view.
    """
    rng = sample_rng(seed, epoch, batch, f"{name}/strata")
    return ((rng.permutation(rows) + rng.random(rows)) / rows).tolist()


class _Key(ISeedSequence):
    """Hands a ready key to Philox, whose ``key=`` would also ask the system for entropy."""

    def __init__(self, key: np.ndarray) -> None:
        self.key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return self.key
