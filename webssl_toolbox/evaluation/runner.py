"""Runs the evaluators of a config on a model and collects their metrics and pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from .. import dist
from ..data.sample import MissingData
from ..encoder import Encoder, MissingPart
from ..registry import EVALUATORS

logger = logging.getLogger("webssl_toolbox")

Found = Mapping[str, float | np.ndarray | None]
Metrics = dict[str, float | None]


class Evaluator(Protocol):
    """Measures a model on data that it loads itself.

    One whose result does not depend on the model says ``constant = True`` on the class; it is run
    once. Named ``<evaluator>_pixels`` it is a yardstick, shown beside that evaluator.
    """

    def run(self, model: Encoder) -> Found:
        """Returns metrics named ``<split>/<metric>``, and pictures, uint8 ``[H, W, 3]``.

        Shares are in percent; a metric whose data are missing is None.

        Raises:
            MissingPart: the model lacks a tower or a space; the evaluator is skipped.
            MissingData: a published data set is not there; a cell of each split says so.
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

    def run(self, model: Encoder) -> tuple[Metrics, dict[str, np.ndarray]]:
        """Returns what all evaluators find that the model has parts for.

        What the model lacks is logged once, however often it is evaluated.

        Returns:
            ``<evaluator>/<split>/<metric>`` to numbers or None; ``<evaluator>/<name>`` to pictures.

        Raises:
            ValueError: an evaluator returns what is neither.
        """
        model.forget()  # the weights have changed since datasets were encoded
        metrics: Metrics = {}
        pictures: dict[str, np.ndarray] = {}
        for name in self.evaluators:
            measured, drawn = self.run_one(name, model)
            metrics |= measured
            pictures |= drawn
        return metrics, pictures

    def run_one(self, name: str, model: Encoder) -> tuple[Metrics, dict[str, np.ndarray]]:
        """Returns what one of the evaluators finds, as ``run`` does; datasets stay encoded."""
        metrics: Metrics = {}
        pictures: dict[str, np.ndarray] = {}
        for key, value in self._run(name, model).items():
            if value is None or np.ndim(value) == 0:
                metrics[f"{name}/{key}"] = None if value is None else float(value)
            elif _is_picture(value):
                pictures[f"{name}/{key}"] = value  # type: ignore[assignment]
            else:
                raise ValueError(
                    f"evaluator {name}: {key!r} must be a number or a picture, a uint8 array "
                    f"[H, W, 3], but it is {_described(value)}"
                )
        return metrics, pictures

    def _run(self, name: str, model: Encoder) -> Found:
        if name in self._constant:
            return self._constant[name]
        found: Found = {}
        error = None
        try:
            found = self.evaluators[name].run(model)
        except MissingPart as missing:
            if name not in self._skipped:
                logger.warning("evaluator %s is skipped: %s", name, missing)
                self._skipped.add(name)
        except MissingData as missing:
            logger.warning("evaluator %s: %s", name, missing)
            splits = getattr(self.evaluators[name], "splits", ["all"])
            found = dict.fromkeys(f"{split}/data" for split in splits)
        except dist.Failed:
            raise
        except (ValueError, OSError, RuntimeError) as failed:
            error = failed
        dist.meet(f"the end of evaluator {name}", error=error)
        if found and getattr(self.evaluators[name], "constant", False):
            self._constant[name] = found
        return found


def _described(value: Any) -> str:
    kind = getattr(value, "dtype", type(value).__name__)
    return f"one of {kind} {list(np.shape(value))}"


def _is_picture(value: Any) -> bool:
    plain = isinstance(value, np.ndarray) and value.dtype == np.uint8
    return plain and value.shape[2:] == (3,) and value.size > 0
