"""What objectives share beyond towers: a joint embedding and its temperature, or prototypes."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .objective import Progress
from .registry import nearest
from .seeding import current_scope, seeded


class Space(nn.Module):
    """A shared head. Objectives attach the towers that they embed; nothing else is created.

    Attributes:
        dim: channels of what it maps to.
    """

    dim: int

    def attach(self, tower: str, width: int) -> None:
        """Makes room for encodings of ``tower``; calling it again changes nothing."""
        raise NotImplementedError

    def check(self, where: str, towers: Collection[str]) -> None:
        """Refuses arguments that name none of ``towers``; ``where`` it is built, for messages."""

    def holds(self, tower: str) -> bool:
        """Returns whether encodings of ``tower`` can be mapped."""
        return True

    def forward(self, x: Any, tower: str) -> Any:
        """Maps ``[..., width]`` of ``tower`` into the space."""
        raise NotImplementedError

    def after_step(self, progress: Progress) -> None:
        """Keeps parameters in their bounds, after the optimizer."""


class JointSpace(Space):
    """A joint embedding of several towers, with one temperature (CLIP, Radford et al. 2021).

    Args:
        dim: channels of the embedding.
        temperature: initial value; its inverse is learned as ``exp(logit_scale)``.
        max_scale: upper bound of the inverse temperature.
        bias: whether projections have one; or the names of the towers whose projection does.
        min_scale: lower bound of the inverse temperature; both are kept after each step.

    Raises:
        ValueError: no inverse temperature lies between the bounds.
    """

    def __init__(
        self,
        dim: int,
        temperature: float = 0.07,
        max_scale: float = 100.0,
        bias: bool | Sequence[str] = False,
        min_scale: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= min_scale <= max_scale:
            raise ValueError(
                f"min_scale={min_scale} and max_scale={max_scale} leave no inverse temperature; "
                "0 <= min_scale <= max_scale"
            )
        self.dim, self.bias = dim, bias
        self.min_log_scale = math.log(min_scale) if min_scale else -math.inf
        self.max_log_scale = math.log(max_scale)
        self.project = nn.ModuleDict()
        # Shape [1], not []: FSDP2 refuses scalars. Created by `use_scale`, so that a config without
        # a contrastive objective has no parameter that never gets a gradient.
        self.logit_scale: nn.Parameter | None = None
        self._initial = math.log(1 / temperature)
        self._scope = current_scope()

    def attach(self, tower: str, width: int) -> None:
        """Creates the projection of ``tower``, initialised by its own name.

        Raises:
            ValueError: it has one already, from encodings of another width.
        """
        if tower not in self.project:
            bias = self.bias if isinstance(self.bias, bool) else tower in self.bias
            with seeded(f"project.{tower}", within=self._scope):
                linear = nn.Linear(width, self.dim, bias=bias)
                nn.init.normal_(linear.weight, std=width**-0.5)
                if bias:
                    nn.init.zeros_(linear.bias)
            self.project[tower] = linear
        elif (other := self.project[tower].in_features) != width:
            raise ValueError(
                f"a joint space projects {tower!r} from {other} channels for one objective, and "
                f"from {width} for another; give one of them a space of its own"
            )

    def check(self, where: str, towers: Collection[str]) -> None:
        """Refuses the name of no tower in ``bias``."""
        for tower in () if isinstance(self.bias, bool) else self.bias:
            if tower not in towers:
                raise ValueError(f"{where}.bias: no tower is {tower!r}{nearest(tower, towers)}")

    def holds(self, tower: str) -> bool:
        """Returns whether ``tower`` was attached."""
        return tower in self.project

    def use_scale(self) -> None:
        """Creates the temperature; contrastive objectives call it in ``setup``."""
        if self.logit_scale is None:
            self.logit_scale = nn.Parameter(torch.full([1], self._initial))

    def scale(self) -> Tensor:
        """Returns the inverse temperature, ``[1]``."""
        assert self.logit_scale is not None, "call use_scale() in setup()"
        return self.logit_scale.exp()

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Bounds the temperature (after the step, so that its gradient is never cut off)."""
        if self.logit_scale is not None:
            self.logit_scale.clamp_(self.min_log_scale, self.max_log_scale)

    def forward(self, x: Tensor, tower: str) -> Tensor:
        """Projects and L2-normalises ``[..., width]`` to ``[..., dim]``."""
        embedding = self.project[tower](x)
        if embedding.dtype in (torch.bfloat16, torch.float16):  # a norm needs the mantissa
            embedding = embedding.float()
        return F.normalize(embedding, dim=-1)
