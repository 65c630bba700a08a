"""Every random draw of a sample is a function of names and numbers, never of history."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4096)
def stable_hash(text: str) -> int:
    """Returns 63 bits of BLAKE2b: the same in every process, unlike ``hash``."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def sample_rng(seed: int, epoch: int, index: int, name: str = "") -> np.random.Generator:
    """Returns the generator of one sample in one view.

    Philox is counter-based: any key starts a stream of its own, at the cost of a microsecond,
    and two views of a sample do not share draws.
    """
    key = np.array([stable_hash(f"{seed}/{name}"), (epoch << 40) | index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
