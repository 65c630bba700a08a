"""Runs the evaluators of a config on a model and collects their metrics and pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..encoder import Encoder, MissingPart
from ..registry import EVALUATORS
from .pictures import is_picture

logger = logging.getLogger("webssl_toolbox")

Found = Mapping[str, float | np.ndarray]


class Evaluator(Protocol):
    """Measures a model on data that it loads itself.

    One whose result does not depend on the model says ``constant = True`` on the class; it is run
    once. Named ``<evaluator>_pixels`` it is a yardstick, shown beside that evaluator.
    """

    def run(self, model: Encoder) -> Found:
        """Returns metrics named ``<split>/<metric>``, and pictures, uint8 ``[H, W, 3]``.

        Shares are in percent.

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
        self._constant: dict[str, Found] = {}
        self._skipped: set[str] = set()

    def run(self, model: Encoder) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Returns what all evaluators find that the model has parts for.

        What the model lacks is logged once, however often it is evaluated.

        Returns:
            ``<evaluator>/<split>/<metric>`` to numbers, and ``<evaluator>/<name>`` to pictures.

        Raises:
            ValueError: an evaluator returns what is neither.
        """
        model.forget()  # the weights have changed since datasets were encoded
        metrics: dict[str, float] = {}
        pictures: dict[str, np.ndarray] = {}
        for name, evaluator in self.evaluators.items():
            for key, value in self._run(name, evaluator, model).items():
                if np.ndim(value) == 0:
                    metrics[f"{name}/{key}"] = float(value)
                elif is_picture(value):
                    pictures[f"{name}/{key}"] = value  # type: ignore[assignment]
                else:
                    raise ValueError(
                        f"evaluator {name}: {key!r} must be a number or a picture, a uint8 array "
                        f"[H, W, 3], but it is {_described(value)}"
                    )
        return metrics, pictures

    def _run(self, name: str, evaluator: Evaluator, model: Encoder) -> Found:
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


def _described(value: Any) -> str:
    kind = getattr(value, "dtype", type(value).__name__)
    return f"one of {kind} {list(np.shape(value))}"
