"""SimSiam: two views of an image predict each other, without negatives."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox import Features, Need, Objective, Space, Tower
from webssl_toolbox.features import spread
from webssl_toolbox.norm import SyncBatchNorm

from ._heads import by_view


class SimSiam(Objective):
    """Negative cosine between the prediction from one view and the other view's projection.

    Chen and He 2021, "Exploring Simple Siamese Representation Learning", equation 1: a 3-layer
    projector with BatchNorm after each layer, a 2-layer predictor, the target without gradient.

    Args:
        views: the two image views.
        dim: channels of the projection.
        hidden: channels inside the predictor.
        space: project the embedding in this joint space, as DeCLIP does; None for the tower's own
            pooled features, as the paper does.
        normalize: with ``space``, project unit embeddings; False takes them before they are made
            of unit length, as the code that DeCLIP's authors released does.
        sync_bn: BatchNorm is over all ranks; False is over each rank's rows, as in that code. The
            running statistics that a checkpoint holds, which nothing reads, are the first rank's.

    Raises:
        ValueError: ``normalize=False`` without a ``space``.
    """

    def __init__(
        self,
        views: tuple[str, str] = ("v1", "v2"),
        dim: int = 2048,
        hidden: int = 512,
        space: str | None = None,
        normalize: bool = True,
        sync_bn: bool = True,
    ) -> None:
        super().__init__()
        if space is None and not normalize:
            raise ValueError("normalize=False is about embeddings: give the space, or leave it out")
        self.first, self.second = (Need("image", view) for view in views)
        self.dim, self.hidden, self.space = dim, hidden, space
        self.normalize, self.rank_local = normalize, not sync_bn

    def needs(self) -> frozenset[Need]:
        """Two image views."""
        return frozenset({self.first, self.second})

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Creates projector and predictor."""
        width = towers["image"].width
        if self.space:
            spaces[self.space].attach("image", width)
            width = spaces[self.space].dim
        dim, hidden = self.dim, self.hidden
        norm: type[nn.Module] = nn.BatchNorm1d if self.rank_local else SyncBatchNorm
        self.projector = nn.Sequential(
            *(nn.Linear(width, dim, bias=False), norm(dim), nn.ReLU(inplace=True)),
            *(nn.Linear(dim, dim, bias=False), norm(dim), nn.ReLU(inplace=True)),
            *(nn.Linear(dim, dim, bias=False), norm(dim, affine=False)),
        )
        self.predictor = nn.Sequential(
            *(nn.Linear(dim, hidden, bias=False), norm(hidden), nn.ReLU(inplace=True)),
            nn.Linear(hidden, dim),
        )

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss`` in [-1, 1] and ``std``, which falls towards 0 in a collapse."""
        x = torch.cat([self._embed(features, need) for need in (self.first, self.second)])
        first, second = projected = by_view(self.projector, x)
        to_second, to_first = by_view(self.predictor, torch.cat(projected))
        loss = agreement(to_second, second) + agreement(to_first, first)
        return {"loss": -loss / 2, "std": spread(first)}

    def _embed(self, features: Features, need: Need) -> Tensor:
        pooled = features[need].pooled
        if self.space is None:
            return pooled
        if self.normalize:
            return features.embed(need, self.space)
        projected: Tensor = features.space(self.space).project[need.tower](pooled)
        return projected


def agreement(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean cosine of rows, with no gradient into ``target``; both ``[B, D]``."""
    # At least float32: on a CPU, autocast leaves the cosine, and the loss, in bfloat16.
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return F.cosine_similarity(prediction.to(dtype), target.detach().to(dtype), dim=1).mean()
