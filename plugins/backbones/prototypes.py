"""Prototypes: the classes without labels that DINO and iBOT sort crops and patches into."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox import Space
from webssl_toolbox.seeding import current_scope, seeded

from ._common import init_linears


class Prototypes(Space):
    """The head of DINO (Caron et al. 2021, arXiv 2104.14294, appendix C), shared or not by config.

    An MLP with GELU and without BatchNorm leads to a bottleneck, whose direction is compared with
    each prototype's: a logit is their cosine. DINO trains with 65,536 prototypes, and lets
    ``last_layer`` rest in the first epoch; DINOv2's large models have 131,072.

    Args:
        count: prototypes.
        hidden: width of the MLP.
        layers: linear maps of the MLP.
        bottleneck: channels that are compared; 384 for DINO's own head in DINOv2's large models.
        learn_norm: whether a prototype's length is learned. It is in DINOv2, which initialises it
            with 1; in DINO it stays 1, for stability.

    Raises:
        ValueError: ``layers`` is not positive.
    """

    mlp: nn.Sequential

    def __init__(
        self,
        count: int = 65536,
        hidden: int = 2048,
        layers: int = 3,
        bottleneck: int = 256,
        learn_norm: bool = False,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers={layers} must be at least 1, which leads to the bottleneck")
        self.dim, self.inner = count, (*[hidden] * (layers - 1), bottleneck)
        self.last_layer = Directions(bottleneck, count, learn_norm)
        self._scope = current_scope()

    def attach(self, tower: str, width: int) -> None:
        """Creates the MLP; towers that share the space share it.

        Raises:
            ValueError: it exists already, for encodings of another width.
        """
        if not hasattr(self, "mlp"):
            with seeded("mlp", within=self._scope):
                self.mlp = _mlp(width, *self.inner)
        elif (other := self.mlp[0].in_features) != width:
            raise ValueError(
                f"prototypes take {other} channels for one objective, and {width} of {tower!r} for "
                "another; give one of them a space of its own"
            )

    def forward(self, x: Tensor, tower: str) -> Tensor:
        """Compares ``[..., width]`` with each prototype, ``[..., count]``."""
        x = self.mlp(x)
        # At least float32: a length needs the mantissa.
        x = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
        return self.last_layer(x)


class Directions(nn.Linear):
    """A linear map without bias whose rows count by their direction: weight normalisation.

    Args:
        width: channels of what it takes.
        count: rows.
        learn_norm: whether each row has a length of its own, ``gain [count, 1]``; else it is 1.
    """

    def __init__(self, width: int, count: int, learn_norm: bool) -> None:
        super().__init__(width, count, bias=False)
        self.gain = nn.Parameter(torch.ones(count, 1)) if learn_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[..., width]`` to ``[..., count]``."""
        weight = F.normalize(self.weight, dim=1)
        return F.linear(x, weight if self.gain is None else weight * self.gain)


def _mlp(*widths: int) -> nn.Sequential:
    """Linear maps with GELU between them, initialised as in DINO."""
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        layers += [nn.GELU(), nn.Linear(into, out)]
    mlp = nn.Sequential(*layers[1:])
    init_linears(mlp)
    return mlp
