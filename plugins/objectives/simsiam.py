"""SimSiam: two views of an image predict each other, without negatives."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from webssl_toolbox import Features, Need, Objective, Space, Tower
from webssl_toolbox.norm import SyncBatchNorm


class SimSiam(Objective):
    """Negative cosine between the prediction from one view and the other view's projection.

    Chen and He 2021, "Exploring Simple Siamese Representation Learning", equation 1: a 3-layer
    projector with BatchNorm after each layer, a 2-layer predictor, the target without gradient.
    BatchNorm is over all ranks.

    Args:
        views: the two image views.
        dim: channels of the projection.
        hidden: channels inside the predictor.
        space: project the embedding in this joint space, as DeCLIP does; None for the tower's own
            pooled features, as the paper does.
    """

    def __init__(
        self,
        views: tuple[str, str] = ("v1", "v2"),
        dim: int = 2048,
        hidden: int = 512,
        space: str | None = None,
    ) -> None:
        super().__init__()
        self.first, self.second = (Need("image", view) for view in views)
        self.dim, self.hidden, self.space = dim, hidden, space

    def needs(self) -> frozenset[Need]:
        """Two image views."""
        return frozenset({self.first, self.second})

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Creates projector and predictor."""
        width = towers["image"].width
        if self.space:
            spaces[self.space].attach("image", width)
            width = spaces[self.space].dim  # type: ignore[assignment]
        dim, hidden = self.dim, self.hidden
        self.projector = nn.Sequential(
            *(nn.Linear(width, dim, bias=False), SyncBatchNorm(dim), nn.ReLU(inplace=True)),
            *(nn.Linear(dim, dim, bias=False), SyncBatchNorm(dim), nn.ReLU(inplace=True)),
            *(nn.Linear(dim, dim, bias=False), SyncBatchNorm(dim, affine=False)),
        )
        self.predictor = nn.Sequential(
            *(nn.Linear(dim, hidden, bias=False), SyncBatchNorm(hidden), nn.ReLU(inplace=True)),
            nn.Linear(hidden, dim),
        )

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss`` in [-1, 1] and ``std``, which falls towards 0 in a collapse.

        ``std`` is that of unit projections times ``sqrt(dim)``: about 1 when they spread evenly.
        """
        first, second = (self._project(features, need) for need in (self.first, self.second))
        loss = agreement(self.predictor(first), second) + agreement(self.predictor(second), first)
        spread = F.normalize(first.detach().float(), dim=1).std(0).mean() * self.dim**0.5
        return {"loss": -loss / 2, "std": spread}

    def _project(self, features: Features, need: Need) -> Tensor:
        x = features.embed(need, self.space) if self.space else features[need].pooled
        return self.projector(x)


def agreement(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean cosine of rows, with no gradient into ``target``; both ``[B, D]``."""
    return F.cosine_similarity(prediction, target.detach(), dim=1).mean()
