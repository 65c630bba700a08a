"""Runs the evaluators of a config on a model and collects their metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from ..encoder import Encoder, MissingPart
from ..registry import EVALUATORS

logger = logging.getLogger("webssl_toolbox")


class Evaluator(Protocol):
    """Measures a model on data that it loads itself.

    One whose result does not depend on the model says ``constant = True`` on the class; it is run
    once. Named ``<evaluator>_pixels`` it is a yardstick, shown beside that evaluator.
    """

    def run(self, model: Encoder) -> dict[str, float]:
        """Returns metrics named ``<split>/<metric>``; shares are in percent.

        Raises:
            MissingPart: the model lacks a tower or a space; the evaluator is skipped.
        """
        ...


class Evaluation:
    """All evaluators of a config.

    Args:
        evaluators: name to evaluator config; None removes an inherited one.

    Raises:
        ValueError: an unknown evaluator or argument.
    """

    def __init__(self, evaluators: Mapping[str, Mapping[str, Any] | None]) -> None:
        self.evaluators: dict[str, Evaluator] = {
            name: EVALUATORS.create(cfg, f"evaluation.evaluators.{name}")
            for name, cfg in evaluators.items()
            if cfg is not None
        }
        self._constant: dict[str, dict[str, float]] = {}
        self._skipped: set[str] = set()

    def run(self, model: Encoder) -> dict[str, float]:
        """Returns ``<evaluator>/<split>/<metric>`` of all evaluators that the model has parts for.

        What the model lacks is logged once, however often it is evaluated.
        """
        model.forget()  # the weights have changed since datasets were encoded
        metrics: dict[str, float] = {}
        for name, evaluator in self.evaluators.items():
            found = self._run(name, evaluator, model)
            metrics |= {f"{name}/{key}": float(value) for key, value in found.items()}
        return metrics

    def _run(self, name: str, evaluator: Evaluator, model: Encoder) -> dict[str, float]:
        if name in self._constant:
            return self._constant[name]
        try:
            found = evaluator.run(model)
        except MissingPart as error:
            if name not in self._skipped:
                logger.warning("evaluator %s is skipped: %s", name, error)
                self._skipped.add(name)
            return {}
        if getattr(evaluator, "constant", False):
            self._constant[name] = found
        return found
