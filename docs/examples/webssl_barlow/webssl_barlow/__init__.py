"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230), a plugin of the WebSSL toolbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from webssl_toolbox import Features, Need, Objective, Space, Tower, dist, hookimpl
from webssl_toolbox.compat import full_precision
from webssl_toolbox.norm import SyncBatchNorm


@hookimpl
def webssl_register(registries: Any) -> None:
    """Brings one objective."""
    registries.objectives["BarlowTwins"] = BarlowTwins


class BarlowTwins(Objective):
    """Makes the embeddings of two views agree channel by channel, and channels independent.

    A projector of three layers, with BatchNorm over all ranks; its output is standardised over the
    batch (section 2.1 of the paper).

    Args:
        views: the two image views.
        dim: channels of each layer of the projector; the paper has 8192.
        balance: weight of the off-diagonal, lambda in equation 1.
    """

    def __init__(
        self, views: tuple[str, str] = ("v1", "v2"), dim: int = 8192, balance: float = 0.005
    ) -> None:
        super().__init__()
        self.pair = tuple(Need("image", view) for view in views)
        self.dim, self.balance = dim, balance

    def needs(self) -> frozenset[Need]:
        """Two image views."""
        return frozenset(self.pair)

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Creates the projector."""
        width, dim = towers["image"].width, self.dim
        self.projector = nn.Sequential(
            *(nn.Linear(width, dim, bias=False), SyncBatchNorm(dim), nn.ReLU(inplace=True)),
            *(nn.Linear(dim, dim, bias=False), SyncBatchNorm(dim), nn.ReLU(inplace=True)),
            *(nn.Linear(dim, dim, bias=False), SyncBatchNorm(dim, affine=False)),
        )

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss``, and ``diagonal``, the mean correlation of a channel with itself."""
        first, second = (self.projector(features[need].pooled) for need in self.pair)
        matrix = correlation(first, second)
        return {"loss": redundancy(matrix, self.balance), "diagonal": matrix.diagonal().mean()}


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Returns the cross-correlation ``[D, D]`` of two standardised ``[B, D]``.

    One process would see the whole batch, so the sum is over ranks.
    """
    dtype = torch.promote_types(first.dtype, torch.float32)
    with full_precision(first):  # autocast would round the product to eight bits
        product = first.to(dtype).T @ second.to(dtype)
    return dist.all_sum(product) / dist.all_sum(product.new_full((), len(first)))


def redundancy(matrix: Tensor, balance: float) -> Tensor:
    """Distance of the cross-correlation ``[D, D]`` to the identity (equation 1 of the paper)."""
    squares = (matrix - torch.eye(len(matrix)).to(matrix)).square()
    diagonal = squares.diagonal().sum()
    return diagonal + balance * (squares.sum() - diagonal)
