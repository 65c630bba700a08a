"""iBOT: what a teacher sees in a patch, from the patches around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from webssl_toolbox import Features, Need, Space, Tower

from ._distill import Distilled, crops


class IBOT(Distilled):
    """Cross entropy between the teacher's and the student's prototypes of hidden patches.

    Zhou et al. 2022, "iBOT: Image BERT Pre-Training with Online Tokenizer" (arXiv 2111.07832),
    equation 2, as DINOv2 (arXiv 2304.07193) computes it: hidden patches alone go through the heads;
    an image counts by the mean over its hidden patches; and the loss is the mean over all global
    crops of all ranks, in which one that hides nothing counts as 0. So it is half as large where
    half of the crops are masked. The centre is the mean over hidden patches.

    Args:
        globals: global crops.
        masks: inputs naming the patches to hide, from the view step ``BlockMask``; one for each.
        tower: the student.
        teacher: an average of it, which sees all patches.
        space: the student's ``Prototypes``: DINO's own, or another.
        teacher_space: the teacher's.
        temperature: divides the student's logits.
        teacher_temperature: divides the teacher's: a number or a schedule.
        centring: ``'centre'`` or ``'sinkhorn'`` (DINOv2's large models).
        momentum: share of the centre that a step keeps.

    Raises:
        ValueError: there are not as many masks as crops.
    """

    def __init__(
        self,
        globals: Sequence[str] = ("g1", "g2"),
        masks: Sequence[str] = ("g1_mask", "g2_mask"),
        tower: str = "image",
        teacher: str = "image_ema",
        space: str = "proto",
        teacher_space: str = "proto_ema",
        temperature: float = 0.1,
        teacher_temperature: float | Mapping[str, Any] = 0.04,
        centring: str = "centre",
        momentum: float = 0.9,
    ) -> None:
        super().__init__(
            *(tower, teacher, space, teacher_space),
            *(temperature, teacher_temperature, centring, momentum),
        )
        self.teachers = crops(teacher, globals)
        self.students, self.masks = crops(tower, globals, masks), masks

    def needs(self) -> frozenset[Need]:
        """Masked crops of the student, whole ones of the teacher."""
        return frozenset([*self.teachers, *self.students])

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Attaches patches to the prototypes."""
        self.attach(spaces, towers[self.tower].token_width, towers[self.teacher].token_width)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss``, and the teacher's ``entropy`` and ``use`` of prototypes."""
        targets, logs = self.targets(features, self._hidden(features, self.teachers))
        logits = self.logits(features, self._hidden(features, self.students))
        weight = torch.cat([features.input(f"{mask}.weight") for mask in self.masks])
        losses = F.cross_entropy(logits, targets, reduction="none") * weight
        rows = sum(len(features[need].tokens) for need in self.students)
        return {"loss": losses.sum() / rows} | logs

    def _hidden(self, features: Features, needs: list[Need]) -> Tensor:
        """Returns the encodings of hidden patches, ``[M, token_width]``."""
        picked = [
            features[need].tokens.flatten(0, 1).index_select(0, features.input(f"{mask}.index"))
            for need, mask in zip(needs, self.masks, strict=True)
        ]
        return torch.cat(picked)
