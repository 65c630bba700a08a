"""Objectives that the toolbox does not ship yet, in their smallest form: they prove the protocol.

DINO, iBOT and KoLeo share masked globals, clean locals, one EMA teacher and one prototype space
with its EMA.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox import Need, Objective, Progress, Space, dist
from webssl_toolbox.registry import OBJECTIVES, SPACES
from webssl_toolbox.seeding import current_scope, seeded


@SPACES.register_module()
class Prototypes(Space):
    def __init__(self, count: int = 12):
        super().__init__()
        self.count, self.scope = count, current_scope()

    def attach(self, tower, width):
        if not hasattr(self, "weight"):
            with seeded("weight", within=self.scope):
                self.weight = nn.Parameter(torch.randn(self.count, width))

    def forward(self, x, tower):
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


class Distilled(Objective):
    """What DINO and iBOT share: the teacher's target and its centre."""

    def setup(self, towers, spaces):
        spaces["proto"].attach("image", towers["image"].width)
        spaces["proto_ema"].attach("image_ema", towers["image"].width)
        self.register_buffer("centre", torch.zeros(12))

    def target(self, logits: Tensor) -> Tensor:
        return ((logits - self.centre) / 0.05).softmax(-1)

    def move_centre(self, progress: Progress) -> None:
        mean = self.staged["sum"] / self.staged["count"].clamp(min=1)
        progress.commit(self.centre, 0.9 * self.centre + 0.1 * mean)


@OBJECTIVES.register_module()
class ToyDINO(Distilled):
    def __init__(self):
        super().__init__()
        self.globals = [Need("image", "g1", mask="g1_mask"), Need("image", "g2", mask="g2_mask")]
        self.locals = [Need("image", "l1"), Need("image", "l2")]
        self.teachers = [Need("image_ema", "g1"), Need("image_ema", "g2")]

    def needs(self):
        return frozenset([*self.globals, *self.locals, *self.teachers])

    def forward(self, features):
        teachers = [features.embed(need, "proto_ema") for need in self.teachers]
        total = dist.all_sum(torch.stack([t.sum(0) for t in teachers]).sum(0))
        self.stage("sum", total)
        self.stage("count", torch.tensor(2.0 * dist.world_size() * len(teachers[0])))
        loss = 0.0
        for i, teacher in enumerate(map(self.target, teachers)):
            for j, need in enumerate(self.globals + self.locals):
                if i != j:
                    student = (features.embed(need, "proto") / 0.1).log_softmax(-1)
                    loss = loss - (teacher * student).sum(-1).mean()
        return {"loss": loss / 6}

    def after_step(self, progress):
        self.move_centre(progress)


@OBJECTIVES.register_module()
class ToyIBOT(Distilled):
    def __init__(self):
        super().__init__()
        self.student = Need("image", "g1", mask="g1_mask")
        self.teacher = Need("image_ema", "g1")

    def needs(self):
        return frozenset([self.student, self.teacher])

    def forward(self, features):
        index = features.input("g1_mask.index")
        student = features[self.student].tokens.flatten(0, 1)[index]
        teacher = features[self.teacher].tokens.flatten(0, 1)[index]
        teacher = features.space("proto_ema")(teacher, "image_ema")
        student = (features.space("proto")(student, "image") / 0.1).log_softmax(-1)
        count = torch.tensor(float(len(index)))
        self.stage("sum", dist.all_sum(teacher.sum(0)))
        self.stage("count", dist.all_sum(count))
        return {"loss": dist.mean(-(self.target(teacher) * student).sum(), len(index))}

    def after_step(self, progress):
        self.move_centre(progress)


@OBJECTIVES.register_module()
class ToyKoLeo(Objective):
    def __init__(self):
        super().__init__()
        self.need = Need("image", "g1", mask="g1_mask")

    def needs(self):
        return frozenset([self.need])

    def forward(self, features):
        local = F.normalize(features[self.need].pooled, dim=-1)
        others = dist.gather(local)
        similarity = local @ others.T
        rows = torch.arange(len(local))
        similarity = similarity.index_put(
            (rows, rows + dist.row_offset(len(local))), torch.tensor(-1.0).to(local)
        )
        return {"loss": -(1 - similarity.max(1).values + 1e-4).log().mean()}
