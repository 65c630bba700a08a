"""KoLeo: images keep their distance from one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from webssl_toolbox import Features, Need, Objective, dist
from webssl_toolbox.compat import full_precision

from ._common import gather_rows
from ._distill import crops, wide

EPS = 1e-8  # an image met twice is at distance 0


class KoLeo(Objective):
    """Minus the logarithm of the distance to the nearest other image of the batch.

    The Kozachenko-Leonenko estimate of entropy (Sablayrolles et al. 2019, arXiv 1806.03198), on
    the pooled features at unit length, as in DINOv2 (arXiv 2304.07193): a mean over images, a sum
    over views, with a weight of 0.1.

    Args:
        views: image views; each is compared with the same view of other images.
        masks: inputs naming the patches to hide, one for each view; None hides nothing.
        tower: whose encodings.
        per_rank: compare the images of each rank alone, as DINOv2's code does: the loss then
            depends on the number of ranks.
    """

    def __init__(
        self,
        views: Sequence[str] = ("g1", "g2"),
        masks: Sequence[str] | None = None,
        tower: str = "image",
        per_rank: bool = False,
    ) -> None:
        super().__init__()
        self.crops, self.rank_local = crops(tower, views, masks), per_rank

    def needs(self) -> frozenset[Need]:
        """The views."""
        return frozenset(self.crops)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss``.

        Raises:
            ValueError: an image is alone in the batch.
        """
        pooled = wide(torch.stack([features[need].pooled for need in self.crops]))
        points = F.normalize(pooled, dim=2)
        others, first = points, 0
        if not self.rank_local:
            others, first = gather_rows(points), dist.row_offset(points.shape[1])
        if others.shape[1] < 2:
            raise ValueError(
                "KoLeo compares images, but there is one alone; raise train_dataloader.batch_size"
                + (" or set per_rank=False" if self.rank_local else "")
            )
        return {"loss": koleo(points, others, first)}


def koleo(points: Tensor, others: Tensor, first: int) -> Tensor:
    """Minus the mean logarithm of distances to the nearest other point, summed over views.

    Args:
        points: unit vectors ``[V, B, D]``.
        others: ``[V, G, D]``, among which ``points`` begin with the column ``first``.
        first: the column of the first point.
    """
    with torch.no_grad(), full_precision(points):
        similarity = points @ others.mT
        similarity.diagonal(first, dim1=1, dim2=2).fill_(-torch.inf)
        nearest = similarity.argmax(2, keepdim=True)
    # Not from the similarity: in float32, 2 - 2 cos has no digits left where points are near.
    distance = (points - others.gather(1, nearest.expand_as(points))).norm(dim=2)
    return -(distance + EPS).log().mean(1).sum()
