"""One mechanism for every exponential moving average: a teacher tower, a teacher's prototypes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from . import dist
from .objective import Need, Progress
from .schedules import build as build_schedule
from .spaces import Space
from .towers import Layer, Tower


class EMA(Tower, Space):
    """A copy of another module whose parameters follow it and get no gradient.

    Running statistics of BatchNorm do not: the copy's own forward keeps them, as in MoCo and DINO.

    Args:
        of: ``'towers.image'`` or ``'spaces.proto'``.
        momentum: share of the old value that an update keeps: a number or a schedule.
        every: steps between updates. With ``momentum=0.0`` it is a copy, taken anew every so often:
            the earlier teacher of Gram anchoring (DINOv3), ``of='towers.image_ema'``.

    Raises:
        ValueError: ``every`` is not positive.
    """

    module: nn.Module

    def __init__(
        self, of: str, momentum: float | Mapping[str, Any] = 0.996, every: int = 1
    ) -> None:
        nn.Module.__init__(self)
        if every < 1:
            raise ValueError(f"every={every} must be at least 1: it counts steps between updates")
        self.of, self.every = of, every
        self.momentum = build_schedule(momentum, f"EMA of {of}: momentum")

    def follow(self, online: nn.Module) -> None:
        """Copies ``online`` as it is now, and remembers it outside the module tree."""
        source: nn.Module = online.module if isinstance(online, EMA) else online
        self.module = copy.deepcopy(source).requires_grad_(False)
        # Not a submodule: the state dict would hold the source twice.
        self.__dict__["online"] = online
        if isinstance(online, Tower):
            self.width, self.token_width = online.width, online.token_width
            self.input_size, self.tokenizer = online.input_size, online.tokenizer

    def train(self, mode: bool = True) -> EMA:
        """Keeps dropout and drop path out of the teacher; its BatchNorm goes on as the source's."""
        super().train(False)
        for module in self.modules():
            if getattr(module, "running_mean", None) is not None:
                module.train(mode)
        return self

    def plan(self, needs: frozenset[Need]) -> None:
        """The copy serves whatever its source was planned for."""

    def attach(self, tower: str, width: int) -> None:
        """The copy has what its source has."""

    def holds(self, tower: str) -> bool:
        """As the source."""
        module: Any = self.module
        return module.holds(tower)

    def num_patches(self, size: int | None = None) -> int:
        """As the source."""
        module: Any = self.module
        return module.num_patches(size)

    def class_attention(self, images: torch.Tensor) -> torch.Tensor | None:
        """As the source."""
        module: Any = self.module
        return module.class_attention(images)

    def layers(self, images: torch.Tensor, indices: Sequence[int]) -> list[Layer]:
        """As the source."""
        module: Any = self.module
        return module.layers(images, indices)

    @torch.no_grad()
    def forward(self, *args: Any) -> Any:
        """Runs the copy, as a tower on segments or as a space on features."""
        return self.module(*args)

    @torch.no_grad()
    def update(self, progress: Progress) -> None:
        """Moves ``1 - momentum`` of the way to the source, or not at all in a skipped step."""
        if progress.step % self.every:
            return
        rate = 1 - self.momentum(progress.step - 1, progress.total)
        # Sharded alike, so that each rank averages its own rows.
        mine = [dist.local(p).detach() for p in self.module.parameters()]
        theirs = [dist.local(p).detach() for p in self.__dict__["online"].parameters()]
        if progress.finite is None:
            torch._foreach_lerp_(mine, theirs, rate)
        else:
            change = torch._foreach_sub(theirs, mine)
            torch._foreach_mul_(change, progress.finite.to(mine[0].dtype) * rate)
            torch._foreach_add_(mine, change)
