"""Watches skipped steps: one is an accident, many in a row are a divergence."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("webssl_toolbox")

LIMIT = 10


class NonFinite(RuntimeError):
    """Training diverged: too many steps in a row had a gradient that is not finite."""


class FiniteWatch:
    """Reads each step's finite flag one step late, when the device has long computed it."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._pending: tuple[int, Tensor, Any, Mapping[str, Tensor]] | None = None

    def watch(self, step: int, finite: Tensor, logs: Mapping[str, Tensor]) -> None:
        """Takes the flag of a step, and reports on the one before.

        Raises:
            NonFinite: ``LIMIT`` steps in a row were skipped; names the losses that are not finite.
        """
        copied = None
        if finite.is_cuda:
            # A copy of its own, with an event: asking the tensor itself would wait for all that
            # has been enqueued since.
            host = torch.empty((), dtype=torch.bool, pin_memory=True)
            host.copy_(finite, non_blocking=True)
            copied, finite = torch.cuda.Event(), host
            copied.record()
        self.flush()
        self._pending = (step, finite, copied, logs)

    def flush(self) -> None:
        """Reports on the step that is still pending."""
        if self._pending is None:
            return
        step, finite, copied, logs = self._pending
        self._pending = None
        if copied is not None:
            copied.synchronize()
        if bool(finite):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        bad = [name for name, value in logs.items() if not math.isfinite(float(value))]
        cause = (
            f"not finite: {', '.join(bad)}" if bad else "every loss is finite, a gradient is not"
        )
        if self._in_a_row >= LIMIT:
            raise NonFinite(
                f"step {step} is the {LIMIT}th in a row without a finite gradient ({cause}); lower "
                "optim_wrapper.optimizer.lr or the weight of that objective, or set "
                "optim_wrapper.precision='fp32'; nothing was changed by these steps"
            )
        logger.warning("step %d skipped, weights and queues are unchanged (%s)", step, cause)
