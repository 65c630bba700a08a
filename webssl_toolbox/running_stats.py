"""Running statistics of BatchNorm change in a forward, so what undoes a forward undoes them too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .objective import Progress


class RunningStats:
    """Remembers all running statistics of a model before a forward.

    Forward has already blended a batch into them when the gradient turns out not to be finite.
    Putting them back is a choice that the device makes: the host does not wait.
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms = [m for m in model.modules() if getattr(m, "running_mean", None) is not None]
        self._saved: list[Tensor] = []

    def _by_kind(self) -> list[list[Tensor]]:
        # Asked anew each time: moving a module to a device replaces its buffers.
        names = ("running_mean", "running_var", "num_batches_tracked")
        found = [getattr(m, name, None) for m in self._norms for name in names]
        buffers = [buffer for buffer in found if buffer is not None]
        floats = [b for b in buffers if b.is_floating_point()]
        return [kind for kind in (floats, [b for b in buffers if not b.ndim]) if kind]

    @torch.no_grad()
    def remember(self) -> None:
        """Saves the statistics, each kind as one flat tensor."""
        self._saved = [_flat(buffers) for buffers in self._by_kind()]

    def commit(self, progress: Progress) -> None:
        """Puts the saved statistics back where the step was skipped."""
        if progress.finite is not None:
            now = [_flat(buffers) for buffers in self._by_kind()]
            both = zip(now, self._saved, strict=False)
            self._saved = [torch.where(progress.finite, new, old) for new, old in both]
            self.restore()

    @torch.no_grad()
    def restore(self) -> None:
        """Puts the saved statistics back."""
        for buffers, saved in zip(self._by_kind(), self._saved, strict=False):
            pieces = saved.split([len(b) for b in buffers]) if buffers[0].ndim else saved.unbind()
            torch._foreach_copy_(buffers, pieces)


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Leaves running statistics as they were, as around the second forward of a checkpoint."""
    stats = RunningStats(module)
    stats.remember()
    try:
        yield
    finally:
        stats.restore()


def _flat(buffers: list[Tensor]) -> Tensor:
    return torch.cat(buffers) if buffers[0].ndim else torch.stack(buffers)
