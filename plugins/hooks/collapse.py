"""Collapse: says when representations stop telling images apart, which a loss does not."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from math import log
from typing import Any

from mmengine.hooks import Hook

logger = logging.getLogger("webssl_toolbox")

STD, ANSWERS, UNIFORM, DIRECTIONS = 0.05, 2, 0.001, 2


class Collapse(Hook):
    """Warns once where what the log and the evaluators hold says that representations collapsed.

    * ``towers.<name>.std`` and ``<objective>.std``: how far rows at unit length spread, about 1
      when they do evenly. Below 0.05, the mean cosine of two is above 0.997; untrained towers have
      0.5 to 0.9.
    * ``<objective>.use``: fewer than 2 prototypes are some row's likeliest: one answer to all.
    * ``<objective>.entropy``: within 0.1 % of that of the uniform distribution: no answer at all.
    * ``<evaluator>/<split>/rank`` of ``RankMe``: features use fewer than 2 directions.

    It reads values that were averaged for the log, so it costs a step nothing.
    """

    def __init__(self) -> None:
        self.seen: Mapping[str, float] = {}
        self.said: set[str] = set()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Looks at the means of the last log interval."""
        if runner.means is not self.seen:
            self.seen = runner.means
            self.warn(runner.iter, dict(self.in_log(runner.model, runner.means)))

    def after_train(self, runner: Any) -> None:
        """Looks at those of the last."""
        self.before_train_iter(runner, runner.iter)

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Looks at the metrics of an evaluation."""
        for name, share in (metrics or {}).items():
            if name.endswith("/rank"):
                width = runner.model.towers[runner.settings.test_tower].width
                if (directions := share / 100 * width) < DIRECTIONS:
                    found = f"features use {directions:.1f} directions of {width}"
                    self.warn(runner.iter, {name: found})

    def in_log(self, model: Any, means: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """Yields what has collapsed, and in what it shows."""
        for name, value in means.items():
            owner, _, key = name.rpartition(".")
            if key == "std" and value < STD:
                what = owner.removeprefix("towers.")
                kind = "embeddings of tower" if owner != what else "projections of objective"
                yield name, f"the {kind} {what!r} hardly differ from row to row ({value:.2g})"
            elif key in ("use", "entropy") and hasattr(model.objectives[owner], "space"):
                count = model.spaces[model.objectives[owner].space].dim
                if key == "use" and value * count < ANSWERS:
                    yield name, f"the teacher of {owner!r} gives one prototype to all rows"
                if key == "entropy" and value > (1 - UNIFORM) * log(count):
                    yield name, f"the teacher of {owner!r} finds all {count} prototypes alike"

    def warn(self, step: int, found: Mapping[str, str]) -> None:
        """Says what is new."""
        for name, text in found.items():
            if name not in self.said:
                self.said.add(name)
                logger.warning(
                    "step %d: representations have collapsed: %s (%s), though losses may look well;"
                    " stop, and see 'When numbers go wrong' in docs/reliability.md",
                    *(step, text, name),
                )
