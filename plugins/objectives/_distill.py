"""What DINO and its successors share: crops, prototypes, and the targets that a teacher gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from webssl_toolbox import Features, Need, Objective, Progress, Space, dist
from webssl_toolbox.compat import full_precision
from webssl_toolbox.schedules import build as build_schedule

FLOOR = 1e-30  # of a prototype's share, which float32 cannot hold if all rows shun it


class Distilled(Objective):
    """A student tower that learns to see the prototypes which its teacher sees.

    Args:
        tower: the student.
        teacher: an average of it.
        space: the student's ``Prototypes``.
        teacher_space: the teacher's.
        temperature: divides the student's logits.
        teacher_temperature: divides the teacher's: a number or a schedule.
        centring: what keeps the teacher from one answer to everything: ``'centre'`` subtracts a
            running mean of its logits (DINO, equation 4); ``'sinkhorn'`` spreads each batch evenly
            over the prototypes (``sinkhorn``).
        momentum: share of the centre that a step keeps.

    Raises:
        ValueError: ``centring`` is neither.
    """

    centre: Tensor

    def __init__(
        self,
        tower: str,
        teacher: str,
        space: str,
        teacher_space: str,
        temperature: float,
        teacher_temperature: float | Mapping[str, Any],
        centring: str,
        momentum: float,
    ) -> None:
        super().__init__()
        if centring not in ("centre", "sinkhorn"):
            raise ValueError(f"centring={centring!r} is neither 'centre' nor 'sinkhorn'")
        self.tower, self.teacher = tower, teacher
        self.space, self.teacher_space = space, teacher_space
        self.temperature = temperature
        where = f"{type(self).__name__}: teacher_temperature"
        self.teacher_temperature = build_schedule(teacher_temperature, where)
        self.centring, self.momentum = centring, momentum

    def attach(self, spaces: Mapping[str, Space], width: int, teacher_width: int) -> None:
        """Attaches both towers, and creates the centre where there is one."""
        spaces[self.space].attach(self.tower, width)
        spaces[self.teacher_space].attach(self.teacher, teacher_width)
        if self.centring == "centre":
            self.register_buffer("centre", torch.zeros(spaces[self.space].dim))

    def logits(self, features: Features, rows: Tensor) -> Tensor:
        """Maps the student's rows ``[..., width]`` to scaled logits ``[..., K]``."""
        return wide(features.space(self.space)(rows, self.tower)) / self.temperature

    @torch.no_grad()
    def targets(self, features: Features, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Asks the teacher, and stages what the centre needs.

        Args:
            features: of this step.
            rows: ``[n, width]``; ranks may differ in ``n``, which may be 0.

        Returns:
            Probabilities ``[n, K]``; and to log, over all ranks, their mean ``entropy`` in nats,
            and ``use``, the share of the prototypes that are some row's likeliest.
        """
        logits = wide(features.space(self.teacher_space)(rows, self.teacher))
        temperature = features.at(self.teacher_temperature)
        if self.centring == "sinkhorn":
            scores = sinkhorn(logits, temperature)
        else:
            count = logits.new_full((1,), len(logits))
            self.stage("logits", dist.all_sum(torch.cat([logits.sum(0), count])))
            scores = ((logits - self.centre) / temperature).log_softmax(1)
        targets = scores.exp()
        return targets, describe(targets, scores)

    def after_step(self, progress: Progress) -> None:
        """Moves the centre towards the mean of the step's logits, where there were any."""
        if self.centring == "centre":
            total, count = self.staged["logits"].split([len(self.centre), 1])
            rate = (1 - self.momentum) * count.clamp(max=1)
            centre = self.centre + rate * (total / count.clamp(min=1) - self.centre)
            progress.commit(self.centre, centre)


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Spreads rows evenly over prototypes: Sinkhorn-Knopp (SwAV, arXiv 2006.09882, section 3.1).

    Each iteration gives every prototype an equal share of the rows of all ranks, then every row a
    sum of 1. Only a factor for each row and each prototype changes, so that is two products of a
    vector and the exponentials. They are of differences to the maximum: DINOv2's code overflows
    above 88 times the temperature. The number of rows cancels out, so ranks may differ in theirs.

    Args:
        logits: ``[n, K]``, this rank's.
        temperature: divides them.
        iterations: 3 in SwAV and in DINOv2; each leaves rows exact, and prototypes nearly so.

    Returns:
        Logarithms of probabilities, ``[n, K]``.
    """
    best = logits.amax(1)
    highest = torch.cat([best, best.new_full((1,), -torch.inf)]).max()  # a rank may have no row
    rows = ((best - dist.gather(highest[None]).max()) / temperature).exp()
    scores = (logits - best[:, None]).div_(temperature)
    with full_precision(logits):
        mass = scores.exp()
        for _ in range(iterations):
            columns = 1 / dist.all_sum(rows @ mass).clamp(min=FLOOR)
            rows = 1 / (mass @ columns)
    return scores.add_(rows.log()[:, None]).add_(columns.log())


def describe(targets: Tensor, scores: Tensor) -> dict[str, Tensor]:
    """Describes probabilities ``[n, K]`` and their logarithms, over all ranks."""
    chosen = targets.new_zeros(targets.shape[1]).index_fill(0, targets.argmax(1), 1)
    sums = torch.stack([-(targets * scores).sum(), targets.new_full((), len(targets))])
    chosen, (entropy, rows) = dist.all_sum(torch.cat([chosen, sums])).split([len(chosen), 2])
    return {"entropy": entropy / rows.clamp(min=1), "use": (chosen > 0).to(targets).mean()}


def crops(tower: str, views: Sequence[str], masks: Sequence[str] | None = None) -> list[Need]:
    """Returns a tower's encodings of views, each with its mask where there are masks.

    Raises:
        ValueError: there are not as many masks as views.
    """
    if masks is None:
        return [Need(tower, view) for view in views]
    if len(masks) != len(views):
        raise ValueError(f"masks {tuple(masks)} must be as many as the views {tuple(views)}")
    return [Need(tower, view, mask=mask) for view, mask in zip(views, masks, strict=True)]


def wide(x: Tensor) -> Tensor:
    """Returns at least float32: under autocast, towers and heads end in bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
