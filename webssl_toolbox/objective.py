"""Need and Objective: what a training signal declares, computes and remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .features import Features
    from .spaces import Space
    from .towers import Tower

Names = str | tuple[str | None, ...] | None


@dataclass(frozen=True)
class Need:
    """One encoding that an objective reads.

    Equal needs of several objectives are one encoding; that is how objectives share work.

    Attributes:
        tower: ``'image'``, ``'text'``, ``'fusion'``, ``'image_ema'`` ...
        view: name of an input, or a tuple of names for a tower that takes several.
        keep: input naming the patches or tokens to encode; the others are dropped (MAE, FLIP).
        mask: input naming those replaced by the mask token (iBOT).

    Where ``view`` is a tuple, ``keep`` and ``mask`` are tuples of the same length, or None.
    """

    tower: str
    view: str | tuple[str, ...]
    keep: Names = None
    mask: Names = None

    @property
    def parts(self) -> tuple[tuple[str, str | None, str | None], ...]:
        """``(view, keep, mask)`` for each view."""
        if isinstance(self.view, str):
            assert not isinstance(self.keep, tuple) and not isinstance(self.mask, tuple)
            return ((self.view, self.keep, self.mask),)
        nothing = (None,) * len(self.view)
        return tuple(zip(self.view, self.keep or nothing, self.mask or nothing, strict=True))

    @property
    def inputs(self) -> frozenset[str]:
        """Names of all inputs that the encoding is computed from."""
        return frozenset(name for part in self.parts for name in part if name)


@dataclass(frozen=True)
class Progress:
    """Where training is, after a step.

    Attributes:
        step: optimizer steps done, this one included.
        total: steps of the whole run.
        finite: bool ``[]`` on the device: false where the step was skipped for a non-finite
            gradient. The host never waits for it: state goes through ``commit``.
    """

    step: int
    total: int
    finite: Tensor | None = None

    def commit(self, buffer: Tensor, value: Tensor, rows: Tensor | None = None) -> None:
        """Writes ``value`` into ``buffer`` (or into its ``rows``), unless the step was skipped."""
        if self.finite is not None:
            old = buffer if rows is None else buffer[rows]
            value = torch.where(self.finite, value.to(buffer.dtype), old)
        if rows is None:
            buffer.copy_(value)
        else:
            buffer.index_copy_(0, rows, value.to(buffer.dtype))


class Objective(nn.Module):
    """A training signal over shared encodings.

    A subclass takes only plain values in ``__init__``; widths come from the towers in ``setup``,
    so that swapping a backbone is one line of a config.
    """

    rank_local: bool = False
    """True where the method itself is per rank (a per-GPU queue): excluded from the N-ranks law."""

    def __init__(self) -> None:
        super().__init__()
        self.staged: dict[str, Tensor] = {}

    def needs(self) -> frozenset[Need]:
        """Returns the encodings that ``forward`` reads: static, from ``__init__`` alone."""
        raise NotImplementedError

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Creates heads, and attaches towers to the spaces that ``forward`` embeds them in."""

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns unweighted scalars: ``loss`` and ``loss_*`` are minimised, the rest is logged."""
        raise NotImplementedError

    def stage(self, name: str, value: Tensor) -> None:
        """Hands ``value`` (detached) to ``after_step`` as ``self.staged[name]``."""
        self.staged[name] = value.detach()

    def after_step(self, progress: Progress) -> None:
        """Updates buffers (queues, centres) from ``staged``, with ``progress.commit``."""


def is_loss(key: str) -> bool:
    """Says whether what an objective returns by this name is minimised, and not only logged."""
    return key == "loss" or key.startswith("loss_")
