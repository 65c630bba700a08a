"""DINO: what a teacher sees in a global crop, from every other crop of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from webssl_toolbox import Features, Need, Space, Tower

from ._distill import Distilled, crops


class DINO(Distilled):
    """Cross entropy between the teacher's prototypes of a global crop and the student's of others.

    Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (arXiv
    2104.14294), equation 3. With 2 global and 8 local crops, 18 pairs of crops are compared. The
    loss is their mean, in DINO and also in DINOv2 (arXiv 2304.07193): its code divides the local
    and the global pairs alike by 18, and multiplies the global ones by 2, since it has averaged
    the two. Only without local crops it divides by one pair too many.

    Args:
        globals: global crops; the teacher sees these alone.
        locals: local crops.
        masks: inputs naming the patches to hide from the student, one for each global crop. As in
            DINOv2, so that the encodings serve iBOT as well; None hides nothing.
        tower: the student.
        teacher: an average of it.
        space: the student's ``Prototypes``.
        teacher_space: the teacher's.
        temperature: divides the student's logits.
        teacher_temperature: divides the teacher's: a number or a schedule.
        centring: ``'centre'`` or ``'sinkhorn'`` (DINOv2's large models).
        momentum: share of the centre that a step keeps.

    Raises:
        ValueError: there is no pair of crops; or not as many masks as global crops.
    """

    def __init__(
        self,
        globals: Sequence[str] = ("g1", "g2"),
        locals: Sequence[str] = (),
        masks: Sequence[str] | None = None,
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
        if not globals or len(globals) + len(locals) < 2:
            raise ValueError(
                f"globals={tuple(globals)} and locals={tuple(locals)} make no pair; give two "
                "global crops, or one and local ones"
            )
        self.teachers = crops(teacher, globals)
        self.students = crops(tower, globals, masks) + crops(tower, locals)

    def needs(self) -> frozenset[Need]:
        """Global crops of both towers, local crops of the student."""
        return frozenset([*self.teachers, *self.students])

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Attaches pooled encodings to the prototypes."""
        self.attach(spaces, towers[self.tower].width, towers[self.teacher].width)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss``, and the teacher's ``entropy`` and ``use`` of prototypes."""
        seen = torch.cat([features[need].pooled for need in self.teachers])
        targets, logs = self.targets(features, seen)
        logits = self.logits(features, torch.stack([features[n].pooled for n in self.students]))
        return {"loss": cross_views(targets.unflatten(0, (len(self.teachers), -1)), logits)} | logs


def cross_views(targets: Tensor, logits: Tensor) -> Tensor:
    """Averages the cross entropy over all pairs of a target and another view.

    Args:
        targets: probabilities ``[G, B, K]``.
        logits: ``[V, B, K]`` of as many views or more; the first are those of the targets.

    Returns:
        ``[]``, the mean over pairs and local images.
    """
    count, scores = len(targets), logits.log_softmax(2)
    every = (targets.sum(0) * scores.sum(0)).sum()
    own = (targets * scores[:count]).sum()  # of a crop with itself
    return (own - every) / (count * (len(logits) - 1) * logits.shape[1])
