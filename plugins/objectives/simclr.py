"""SimCLR: the other view of an image, told from all other images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox import Features, Need, Objective, Space, Tower
from webssl_toolbox.compat import full_precision
from webssl_toolbox.features import spread
from webssl_toolbox.norm import SyncBatchNorm

from ._common import ROWS, gather_rows, in_pieces, similarities
from ._heads import by_view


class SimCLR(Objective):
    """NT-Xent between projections of two views, against both views of the images of all ranks.

    Chen et al. 2020 (arXiv 2002.05709), equation 1, on the tower's own pooled features, with the
    3-layer head of SLIP (Mu et al. 2021, arXiv 2112.12750). SLIP is this beside CLIP, each with a
    weight of 1 and its own views. Linear maps before a BatchNorm have no bias, which it would take
    out again.

    Args:
        views: the two image views.
        dim: channels of the projection.
        hidden: channels inside the head.
        temperature: divides cosines; fixed.
    """

    def __init__(
        self,
        views: tuple[str, str] = ("v1", "v2"),
        dim: int = 256,
        hidden: int = 4096,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.first, self.second = (Need("image", view) for view in views)
        self.dim, self.hidden, self.temperature = dim, hidden, temperature

    def needs(self) -> frozenset[Need]:
        """Two image views."""
        return frozenset({self.first, self.second})

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Creates the head."""
        width, hidden = towers["image"].width, self.hidden
        self.head = nn.Sequential(
            *(nn.Linear(width, hidden, bias=False), SyncBatchNorm(hidden), nn.ReLU(inplace=True)),
            *(nn.Linear(hidden, hidden, bias=False), SyncBatchNorm(hidden), nn.ReLU(inplace=True)),
            nn.Linear(hidden, self.dim),
        )

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss`` and ``std``, which falls towards 0 in a collapse."""
        pooled = [features[need].pooled for need in (self.first, self.second)]
        views = torch.stack(by_view(self.head, torch.cat(pooled)))
        # At least float32: under autocast the head ends in bfloat16.
        views = F.normalize(views.to(torch.promote_types(views.dtype, torch.float32)), dim=2)
        loss = nt_xent(views, gather_rows(views), self.temperature)
        return {"loss": loss, "std": spread(views[0])}


def nt_xent(views: Tensor, all_views: Tensor, temperature: float, rows: int = ROWS) -> Tensor:
    """Normalised, temperature-scaled cross entropy (SimCLR, equation 1).

    Args:
        views: unit vectors of two views, ``[2, B, D]``, this rank's.
        all_views: ``[2, G, D]``, those of all ranks.
        temperature: divides cosines.
        rows: hold the similarities of at most this many images at a time.

    Returns:
        ``[]``, the mean over both views of local images.
    """
    with full_precision(views):
        scaled = views / temperature
        pieces = in_pieces(
            lambda piece, offset: _from_rows(scaled[:, piece], all_views, offset),
            *(views.shape[1], rows),
        )
        return torch.cat(pieces, 1).mean()


def _from_rows(views: Tensor, all_views: Tensor, offset: int) -> Tensor:
    """Returns the loss of each view of each image, ``[2, b]``."""
    logits = similarities(views, all_views)
    own = logits.diagonal(offset, dim1=1, dim2=3)  # of one image's two views, [2, 2, b]
    with torch.no_grad():  # a similarity of minus infinity passes no gradient anyway
        own.diagonal().fill_(-torch.inf)
    return logits.logsumexp((2, 3)) - torch.stack([own[0, 1], own[1, 0]])
