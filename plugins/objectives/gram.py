"""Gram anchoring: patches stay as similar to one another as an earlier teacher saw them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from webssl_toolbox import Features, Need, Objective
from webssl_toolbox.compat import full_precision

from ._distill import crops, wide


class Gram(Objective):
    """Mean squared difference between the student's and an anchor's cosines of patches.

    Siméoni et al. 2025, "DINOv3" (arXiv 2508.10104), section 4.2: in long runs, image-level scores
    rise while patches lose their places. The anchor is a teacher of earlier days,
    ``dict(type="EMA", of="towers.image_ema", momentum=0.0, every=10_000)``; patches may move, as
    long as their similarities within an image stay.

    Args:
        views: image views.
        masks: inputs naming the patches to hide from the student, one for each view.
        tower: the student.
        anchor: the earlier teacher, which sees all patches.
    """

    def __init__(
        self,
        views: Sequence[str] = ("g1", "g2"),
        masks: Sequence[str] | None = None,
        tower: str = "image",
        anchor: str = "image_gram",
    ) -> None:
        super().__init__()
        self.students, self.anchors = crops(tower, views, masks), crops(anchor, views)

    def needs(self) -> frozenset[Need]:
        """The views, of both towers."""
        return frozenset([*self.students, *self.anchors])

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss``, the mean over views, images and pairs of patches."""
        pairs = zip(self.students, self.anchors, strict=True)
        losses = [
            F.mse_loss(gram(features[student].tokens), gram(features[anchor].tokens.detach()))
            for student, anchor in pairs
        ]
        return {"loss": torch.stack(losses).mean()}


def gram(tokens: Tensor) -> Tensor:
    """Returns the cosines between all patches of an image, ``[B, N, D]`` to ``[B, N, N]``."""
    unit = F.normalize(wide(tokens), dim=2)
    with full_precision(unit):
        return unit @ unit.mT
