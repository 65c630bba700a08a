"""A skipped step leaves BatchNorm's running statistics as they were, without asking the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .objective import Progress


class RunningStats:
    """Remembers all running statistics of a model before a forward, as one flat tensor.

    Forward has already blended a batch into them when the gradient turns out not to be finite.
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms = [m for m in model.modules() if getattr(m, "running_mean", None) is not None]
        self._saved: Tensor | None = None

    def _buffers(self) -> list[Tensor]:
        # Asked anew each time: moving a module to a device replaces its buffers.
        return [b for m in self._norms for b in (m.running_mean, m.running_var)]  # type: ignore[misc]

    def remember(self) -> None:
        """Saves the statistics."""
        buffers = self._buffers()
        self._saved = torch.cat(buffers) if buffers else None

    def commit(self, progress: Progress) -> None:
        """Puts the saved statistics back where the step was skipped."""
        if self._saved is None or progress.finite is None:
            return
        buffers = self._buffers()
        kept = torch.where(progress.finite, torch.cat(buffers), self._saved)
        torch._foreach_copy_(buffers, kept.split([len(b) for b in buffers]))
        self._saved = None
