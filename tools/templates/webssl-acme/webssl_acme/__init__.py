"""A plugin of the WebSSL toolbox: a starting point that trains. Replace what ``Acme`` computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox import Features, Need, Objective, Space, Tower, dist, hookimpl
from webssl_toolbox.compat import full_precision


@hookimpl
def webssl_register(registries: Any) -> None:
    """Names what this package brings."""
    registries.objectives["Acme"] = Acme


class Acme(Objective):
    """Two views of an image are close on the unit sphere, and images spread over it.

    Wang and Isola 2020 (arXiv 2005.10242), alignment and uniformity.

    Args:
        views: the two image views.
        dim: channels of the projection.
        sharpness: how strongly near images repel each other, t in the paper.
    """

    def __init__(
        self, views: tuple[str, str] = ("v1", "v2"), dim: int = 128, sharpness: float = 2.0
    ) -> None:
        super().__init__()
        self.first, self.second = (Need("image", view) for view in views)
        self.dim, self.sharpness = dim, sharpness

    def needs(self) -> frozenset[Need]:
        """The encodings that ``forward`` reads."""
        return frozenset({self.first, self.second})

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Creates the heads: widths come from the towers, never from the config."""
        self.projector = nn.Linear(towers["image"].width, self.dim)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns two losses, both minimised."""
        first, second = (
            unit(self.projector(features[need].pooled)) for need in (self.first, self.second)
        )
        return {
            "loss_align": (first - second).square().sum(1).mean(),
            "loss_uniform": uniformity(first, self.sharpness),
        }


def unit(x: Tensor) -> Tensor:
    """Makes rows ``[B, dim]`` of unit length, in float32 at least: eight bits do not suffice."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1)


def uniformity(x: Tensor, sharpness: float) -> Tensor:
    """Log of the mean Gaussian potential of all pairs of unit vectors ``[B, dim]``.

    Local rows against the rows of all ranks, and the sum over ranks, so N ranks equal one.
    """
    everywhere = dist.gather(x)
    with full_precision(x):  # autocast would round the product to eight bits
        similarities = x @ everywhere.T
    # |a - b|^2 = 2 - 2 a.b on the unit sphere; each row has a potential of 1 with itself.
    potential = (2 * sharpness * (similarities - 1)).exp().sum() - len(x)
    pairs = len(everywhere) * (len(everywhere) - 1)
    return (dist.all_sum(potential) / pairs).log()
