"""What finished runs measured: those of tools/train.py, and those of tools/test.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _shards import key

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """One model that was measured.

    Attributes:
        name: its folder.
        recipe: equal for models that differ in the seed alone.
        seed: of its weights and data.
        metrics: ``evaluator/split/metric`` to percent.
        samples: by evaluator and split, the samples with a label; empty where nobody counted.
    """

    name: str
    recipe: str
    seed: int
    metrics: Metrics
    samples: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def read(folder: Path) -> Run:
    """Reads the work dir of either command.

    Raises:
        FileNotFoundError: it holds no results, or not yet.
        ValueError: they are damaged.
    """
    results = folder / "results.json"
    try:
        if results.exists():
            said = json.loads(results.read_text("utf-8"))
            kept = ("recipe", "seed", "metrics", "samples")
            return Run(str(folder), *(said[name] for name in kept))
        if metrics := trained(folder):
            cfg = json.loads((folder / "config.json").read_text("utf-8"))
            made = recipe(cfg, int(metrics.pop("step")))
            return Run(str(folder), made, cfg.get("seed", 0), metrics)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder}: its results cannot be read ({error!r}); run it again"
        ) from error
    raise FileNotFoundError(
        f"{folder} holds no results: give the work dir of a run of tools/train.py or tools/test.py "
        "that is finished"
    )


def trained(folder: Path) -> dict[str, float]:
    """Returns the last metrics of a finished training run, else nothing."""
    if not (folder / "results.md").exists():  # written last
        return {}
    text = (folder / "metrics.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return next(line for line in reversed(lines) if any("/" in name for name in line))


def recipe(cfg: Mapping[str, Any], step: int) -> str:
    """Returns a digest of how a model was made, which is equal for all seeds.

    Args:
        cfg: of its training.
        step: until which it was trained; 0 for the weights of the beginning.
    """
    return key({name: cfg[name] for name in cfg if name not in ("seed", "work_dir")}, step)
