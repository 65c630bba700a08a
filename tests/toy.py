"""Objectives that the core does not ship yet, in their smallest form: they prove the protocol.

DINO, iBOT and KoLeo share masked globals, clean locals, one EMA teacher and one prototype space
with its EMA; MAE reads kept patches; M3AE fuses image and text.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox import Encoding, Need, Objective, Progress, Space, Tower, dist
from webssl_toolbox.registry import MODELS, OBJECTIVES, SPACES
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


@OBJECTIVES.register_module()
class ToyMAE(Objective):
    def __init__(self, view="v1", keep="v1_keep", tower="image"):
        super().__init__()
        self.need, self.view, self.keep = Need(tower, view, keep=keep), view, keep

    def needs(self):
        return frozenset([self.need])

    def setup(self, towers, spaces):
        tower = towers[self.need.tower]
        self.patch, self.patches = tower.patch_size, tower.num_patches()
        self.mask = nn.Parameter(torch.zeros(tower.token_width))
        self.position = nn.Parameter(torch.randn(self.patches, tower.token_width))
        self.decoder = nn.Linear(tower.token_width, 3 * self.patch**2)

    def forward(self, features):
        tokens = features[self.need].tokens
        keep = features.input(self.keep).unsqueeze(-1)
        full = self.mask.expand(len(tokens), self.patches, -1)
        full = full.scatter(1, keep.expand_as(tokens), tokens) + self.position
        hidden = torch.ones(full.shape[:2], dtype=full.dtype).scatter(1, keep[..., 0], 0.0)
        target = F.unfold(features.input(self.view), self.patch, stride=self.patch).transpose(1, 2)
        error = ((self.decoder(full) - target) ** 2).mean(-1) * hidden
        return {"loss": dist.mean(error.sum(), hidden.sum())}


@MODELS.register_module()
class ToyFusion(Tower):
    """Kept patches of an image and kept tokens of a caption in one sequence."""

    def __init__(self, width=16, patch=8, input_size=16):
        super().__init__()
        from webssl_plugins.backbones.text_transformer import TextTransformer

        self.width = self.token_width = width
        self.input_size, self.patch_size = input_size, patch
        self.patches = nn.Linear(3 * patch**2, width)
        self.words = nn.Embedding(600, width)
        self.places = nn.Parameter(torch.randn(self.num_patches() + 16, width))
        self.mix = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.tokenizer = TextTransformer(width=8, depth=1, heads=1, vocab_size=600).tokenizer

    def num_patches(self, size=None):
        return ((size or self.input_size) // self.patch_size) ** 2

    def forward(self, segments):
        return [self.encode(segment) for segment in segments]

    def encode(self, segment):
        image, text = segment.parts
        patches = F.unfold(image.data, self.patch_size, stride=self.patch_size).transpose(1, 2)
        count = patches.shape[1]
        x = self.patches(patches) + self.places[:count]
        y = self.words(text.data) + self.places[count : count + text.data.shape[1]]
        x, y = (
            z if p.keep is None else z.gather(1, p.keep.unsqueeze(-1).expand(-1, -1, self.width))
            for z, p in ((x, image), (y, text))
        )
        padding = torch.arange(y.shape[1]) >= text.length[:, None]
        padding = F.pad(padding, (x.shape[1], 0))
        tokens = self.mix(torch.cat([x, y], dim=1), src_key_padding_mask=padding)
        return Encoding(tokens[:, 0], tokens, ~padding, (x.shape[1], y.shape[1]))


@OBJECTIVES.register_module()
class ToyM3AE(Objective):
    def __init__(self):
        super().__init__()
        self.need = Need("fusion", ("v1", "text"), keep=("fused_keep", None))

    def needs(self):
        return frozenset([self.need])

    def setup(self, towers, spaces):
        self.head = nn.Linear(towers["fusion"].token_width, towers["fusion"].tokenizer.vocab_size)

    def forward(self, features):
        encoding = features[self.need]
        _, words = encoding.tokens.split(encoding.sizes, dim=1)
        hidden = words.flatten(0, 1)[features.input("text.index")]
        target = features.input("text.target")
        total = F.cross_entropy(self.head(hidden), target, reduction="sum")
        return {"loss": dist.mean(total, len(target))}
