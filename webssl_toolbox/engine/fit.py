"""Says how what a checkpoint holds differs from what is to be filled."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def described(tensors: Mapping[str, Tensor], dtypes: bool) -> dict[str, str]:
    """Returns what must be equal of tensors that fit: shapes, and dtypes if asked for."""
    return {k: f"{list(v.shape)}{f' {v.dtype}' if dtypes else ''}" for k, v in tensors.items()}


def check_fit(
    file: Path, stored: Mapping[str, str], wanted: Mapping[str, str], strict: bool
) -> None:
    """Compares names and descriptions, and raises (or warns) once for all that differs.

    Raises:
        ValueError: something differs; where not ``strict``, something that both have.
    """
    different = [
        f"{n} is {stored[n]}, expected {w}" for n, w in wanted.items() if stored.get(n, w) != w
    ]
    problems = {
        "missing": [name for name in wanted if name not in stored],
        "unexpected": [name for name in stored if name not in wanted],
        "of another shape or dtype": different,
    }
    message = f"{file} does not fit: " + ", ".join(
        f"{len(names)} {kind} ({'; '.join(names[:2])}{'; ...' if len(names) > 2 else ''})"
        for kind, names in problems.items()
        if names
    )
    if different or (strict and any(problems.values())):
        raise ValueError(f"{message}; take the config that it was saved with")
    if any(problems.values()):
        warnings.warn(f"{message}; loaded what fits", stacklevel=3)
