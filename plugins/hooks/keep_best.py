"""Keeps the checkpoint that scores best, however long ago."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from webssl_toolbox.engine import checkpoint
from webssl_toolbox.registry import nearest

logger = logging.getLogger("webssl_toolbox")

METRICS = "metrics.json"


class KeepBest(Hook):
    """Keeps a run's best checkpoint so far in ``<work dir>/best``, which is used as a work dir is.

    It is hard-linked where the file system can: it takes space when the run deletes its own.

    Args:
        metric: in which the highest is the best, such as ``'knn/noto-v1/top1'``.

    Raises:
        ValueError: the evaluators do not find the metric, or no checkpoint is there when they do.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def before_train(self, runner: Any) -> None:
        """Refuses what would never keep anything."""
        s = runner.settings
        if not s.evaluation.evaluators:  # a run that measures nothing, such as a replay
            return
        evaluator = self.metric.partition("/")[0]
        known = runner.evaluation.evaluators
        if evaluator not in known:
            raise ValueError(
                f"KeepBest.metric {self.metric!r}: no evaluator is named {evaluator!r}"
                f"{nearest(evaluator, known)}"
            )
        saves, interval = s.train_cfg.checkpoint_interval, s.evaluation.interval
        if not interval or not saves or interval % saves:
            raise ValueError(
                f"KeepBest takes checkpoints that are evaluated: evaluation.interval={interval} "
                f"must be a multiple of train_cfg.checkpoint_interval={saves}"
            )

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Takes the checkpoint of this step, if it is the best; the one before goes after that."""
        if not metrics:  # on other ranks than the first
            return
        if metrics.get(self.metric) is None:  # nor where its data are missing
            found = nearest(self.metric, metrics)
            raise ValueError(f"KeepBest.metric {self.metric!r} is not among the metrics{found}")
        name = f"step_{runner.iter:08d}"
        source, root = runner.checkpoints / name, runner.work_dir / "best/checkpoints"
        before = sorted(root.glob("step_*"))
        score = metrics[self.metric]
        if not source.exists() or not score > max(map(self._score, before), default=-math.inf):
            return
        for left_over in root.glob(".step_*"):  # of a killed process
            shutil.rmtree(left_over)
        hidden = root / f".{name}"
        checkpoint.copy(source, hidden)
        (hidden / METRICS).write_text(json.dumps(dict(metrics), indent=1), encoding="utf-8")
        checkpoint.verify(hidden)
        shutil.rmtree(root / name, ignore_errors=True)  # of a run that was resumed before it
        hidden.rename(root / name)
        for path in before:
            if path.name != name:
                shutil.rmtree(path)
        logger.info("%s is %.2f, the best so far: %s", self.metric, score, root / name)

    def _score(self, path: Path) -> float:
        try:
            return float(json.loads((path / METRICS).read_text(encoding="utf-8"))[self.metric])
        except (OSError, ValueError, KeyError, TypeError):  # of another metric, or damaged
            return -math.inf
