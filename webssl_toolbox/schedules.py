"""One kind of schedule: a closed-form function of progress, so there is no state to save."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from .registry import check_value, nearest

Schedule = Callable[[int, int], float]
"""``value = schedule(step, total)`` with ``0 <= step < total``."""


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda step, total: value


def cosine(start: float, end: float = 0.0, warmup: int = 0, warmup_start: float = 0.0) -> Schedule:
    """Linear warm-up from ``warmup_start`` to ``start``, then half a cosine to ``end``."""
    return _warmed(start, end, warmup, warmup_start, lambda t: (1 + math.cos(math.pi * t)) / 2)


def linear(start: float, end: float = 0.0, warmup: int = 0, warmup_start: float = 0.0) -> Schedule:
    """Linear warm-up from ``warmup_start`` to ``start``, then a straight line to ``end``."""
    return _warmed(start, end, warmup, warmup_start, lambda t: 1 - t)


def _warmed(
    start: float, end: float, warmup: int, warmup_start: float, shape: Callable[[float], float]
) -> Schedule:
    def value(step: int, total: int) -> float:
        if step < warmup:
            return warmup_start + (start - warmup_start) * (step + 1) / warmup
        # The last step reaches `end` exactly; the first after warm-up is already on its way.
        fraction = (step + 1 - warmup) / max(total - warmup, 1)
        return end + (start - end) * shape(min(fraction, 1.0))

    return value


KINDS: dict[str, Any] = {"constant": constant, "cosine": cosine, "linear": linear}


def build(cfg: float | Mapping[str, Any], where: str) -> Schedule:
    """Builds a schedule from a number or ``dict(type='cosine', start=..., end=..., warmup=...)``.

    Raises:
        ValueError: an unknown kind or argument, naming ``where`` and the nearest valid name; or a
            value that is no number.
    """
    if isinstance(cfg, int | float) and not isinstance(cfg, bool):
        return constant(float(cfg))
    if not isinstance(cfg, Mapping) or str(cfg.get("type")) not in KINDS:
        kind = cfg.get("type") if isinstance(cfg, Mapping) else cfg
        raise ValueError(
            f"{where}: a schedule is a number or a dict with a type, not {kind!r}"
            f"{nearest(str(kind), KINDS)}"
        )
    make = KINDS[cfg["type"]]
    arguments = {key: value for key, value in cfg.items() if key != "type"}
    valid = make.__code__.co_varnames[: make.__code__.co_argcount]
    for key in arguments:
        if key not in valid:
            raise ValueError(f"{where}.{key}: {cfg['type']} takes no such{nearest(key, valid)}")
        check_value(f"{where}.{key}", arguments[key], make.__annotations__[key])
    try:
        return make(**arguments)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None
