"""Weights are a function of ``(seed, name)``: an ablation compares signals, not seeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from .data.rng import stable_hash

_scope: ContextVar[str] = ContextVar("seed_scope", default="0")


@contextmanager
def seeded(name: str, within: str | None = None) -> Iterator[None]:
    """Seeds torch from the enclosing scopes and ``name``; restores its state afterwards.

    Scopes nest: ``seeded('7')`` around ``seeded('towers.image')``. A module that grows later, on
    behalf of others, names the scope it was built in as ``within`` (see ``current_scope``).
    """
    scope = f"{_scope.get() if within is None else within}/{name}"
    token = _scope.set(scope)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_hash(scope))
        try:
            yield
        finally:
            _scope.reset(token)


def current_scope() -> str:
    """Returns the scope that a module is being built in."""
    return _scope.get()


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds model-side randomness (drop path) of one step: resume needs no saved state."""
    torch.manual_seed(stable_hash(f"{seed}/step{step}/rank{rank}"))
