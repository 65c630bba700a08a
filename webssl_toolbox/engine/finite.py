"""Watches skipped steps: one is an accident, many in a row are a divergence."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import dist
from ..objective import is_loss

logger = logging.getLogger("webssl_toolbox")


class NonFinite(RuntimeError):
    """Training diverged: too many steps in a row had a gradient that is not finite."""


class FiniteWatch:
    """Reads each step's finite flag one step late, when the device has long computed it.

    Args:
        limit: stop at so many skipped steps in a row.
        record: takes the first step of each row, and the losses that are not finite; returns how
            to run it again.
    """

    def __init__(self, limit: int, record: Callable[[int, list[str]], str]) -> None:
        self._limit, self._record, self._in_a_row, self._hint = limit, record, 0, ""
        self._pending: tuple[int, Callable[[], Any], Mapping[str, Tensor]] | None = None

    def watch(self, step: int, finite: Tensor, logs: Mapping[str, Tensor]) -> None:
        """Takes the flag of a step, and reports on the one before.

        Raises:
            NonFinite: ``limit`` steps in a row were skipped; names the losses that are not finite.
        """
        read = later(finite)
        self.flush()
        self._pending = (step, read, logs)

    def flush(self) -> None:
        """Reports on the step that is still pending; call it on all ranks."""
        if self._pending is None:
            return
        step, finite, logs = self._pending
        self._pending = None
        if finite():
            self._in_a_row = 0
            return
        self._in_a_row += 1
        bad = not_finite(logs)
        what = f"not finite: {', '.join(bad) or 'a gradient, though every loss is'}"
        if self._in_a_row == 1:
            self._hint = self._record(step, bad)
        if self._in_a_row >= self._limit:
            raise NonFinite(
                f"step {step} ends the run ({what}): train_cfg.max_skipped={self._limit} in a row; "
                "lower optim_wrapper.optimizer.lr or the weight of that objective, or set "
                "optim_wrapper.precision='fp32'; nothing was changed by skipped steps; "
                f"{self._hint}"
            )
        logger.warning("step %d is skipped and changes nothing (%s); %s", step, what, self._hint)


def later(x: Tensor) -> Callable[[], Any]:
    """Begins to copy ``x``, ``[]``, to the host; what it returns reads it, when it has arrived.

    Asking the tensor itself would wait for all that has been enqueued on the device since.
    """
    if not x.is_cuda:
        return x.item
    host, arrived = torch.empty_like(x, device="cpu", pin_memory=True), torch.cuda.Event()
    host.copy_(x, non_blocking=True)
    arrived.record()

    def read() -> Any:
        arrived.synchronize()
        return host.item()

    return read


def not_finite(logs: Mapping[str, Tensor]) -> list[str]:
    """Names the losses among ``logs`` that are not finite; call it on all ranks, it waits.

    Returns:
        ``'clip.loss'``, or ``'clip.loss of rank 1'`` where it is finite on others; equal on all
        ranks.
    """
    names = [name for name in logs if is_loss(name.partition(".")[2])]
    ranks = dist.gather(torch.stack([logs[name].float() for name in names])[None]).tolist()
    found = []
    for name, values in zip(names, zip(*ranks, strict=True), strict=True):
        bad = [str(rank) for rank, value in enumerate(values) if not math.isfinite(value)]
        if bad:
            found.append(name if len(bad) == len(values) else f"{name} of rank {', '.join(bad)}")
    return found
