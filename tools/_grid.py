"""A study: the grid of runs that answers which variant of a config is better, on how much data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from webssl_toolbox.registry import nearest

Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run: a variant on an amount of data, for some steps, from a seed."""

    variant: str
    amount: str
    seed: int
    steps: int

    @property
    def folder(self) -> Path:
        """Where the run lives below the study's folder."""
        return Path(_plain(self.variant), _plain(self.amount), f"{self.steps}-steps-{self.seed}")


@dataclass(frozen=True)
class Study:
    """The ``_study`` of a config.

    Every variant is trained on every amount of data from every seed, at equal pairs (the config's
    ``train_cfg.max_iters``) and at equal minutes (as many more steps as it is cheaper).

    Attributes:
        variants: ``{name: overrides}``, the first is what the others are compared with. Overrides
            are ``{'model.objectives.mlm': None}``: paths and values, as of ``--cfg-options``.
        amounts: ``{name: overrides}``, from little to much.
        seeds: runs of each cell; weights and data order of a seed are those of all variants.
        metrics: ``{title: names}``; the mean of the names is reported. The first one is plotted.
    """

    variants: Mapping[str, Overrides]
    amounts: Mapping[str, Overrides]
    seeds: int
    metrics: Mapping[str, Sequence[str]]

    @property
    def baseline(self) -> str:
        """The variant that the others are compared with."""
        return next(iter(self.variants))

    def options(self, cell: Cell) -> list[str]:
        """Returns the ``--cfg-options`` that make the config a cell's."""
        overrides = {
            **self.variants[cell.variant],
            **self.amounts[cell.amount],
            "seed": cell.seed,
            "train_cfg.max_iters": cell.steps,
        }
        return [f"{path}={value!r}" for path, value in overrides.items()]

    def cells(self, steps: Mapping[str, int]) -> Iterator[Cell]:
        """Yields the runs of one budget, ``{variant: steps}``; complete seeds come first."""
        for seed in range(self.seeds):
            for amount in self.amounts:
                for variant in self.variants:
                    yield Cell(variant, amount, seed, steps[variant])


def study_from(cfg: Mapping[str, Any]) -> Study:
    """Reads ``_study`` of a config.

    Raises:
        ValueError: it is missing, incomplete or misspelt.
    """
    section = cfg.get("_study")
    if not isinstance(section, Mapping):
        raise ValueError("the config has no _study: dict(variants=, amounts=, seeds=, metrics=)")
    names = [field.name for field in fields(Study)]
    for key in section:
        if key not in names:
            raise ValueError(f"unknown key _study.{key}{nearest(key, names)}")
    for name in names:
        if not section.get(name):
            raise ValueError(f"_study.{name} is missing or empty")
    if not isinstance(section["seeds"], int):
        raise ValueError(f"_study.seeds is a number of runs, not {section['seeds']!r}")
    for name in ("variants", "amounts"):
        _check_overrides(f"_study.{name}", section[name])
    return Study(**section)


def _check_overrides(where: str, entries: Mapping[str, Overrides]) -> None:
    folders = [_plain(name) for name in entries]
    if len(set(folders)) < len(folders) or {"", ".", "..", "costs"} & set(folders):
        raise ValueError(f"{where}: its names become folders, and {list(entries)} cannot")
    for name, overrides in entries.items():
        if taken := {"seed", "train_cfg.max_iters"} & set(overrides):
            raise ValueError(f"{where}.{name} sets {taken.pop()}, which the study itself varies")


def budgets(pairs: int, seconds: Mapping[str, float]) -> dict[str, dict[str, int]]:
    """Returns the steps of each variant under both budgets.

    Args:
        pairs: steps of every variant at equal pairs.
        seconds: that each variant takes for a pair; the dearest one's budgets are the same.
    """
    dearest = max(seconds.values())
    return {
        "equal pairs": dict.fromkeys(seconds, pairs),
        "equal minutes": {name: round(pairs * dearest / s) for name, s in seconds.items()},
    }


def _plain(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip("-")
