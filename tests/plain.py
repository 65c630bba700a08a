"""Objectives over drawn encodings, and their papers' formulas written with scalars, in float64.

The formulas share no code with the objectives: only autograd, which differentiates both.
"""

from types import SimpleNamespace

import torch

from webssl_toolbox import Encoding, Features
from webssl_toolbox.registry import OBJECTIVES, SPACES

TOWERS = dict(
    image=SimpleNamespace(width=5, token_width=4),
    text=SimpleNamespace(width=4, token_width=3, tokenizer=SimpleNamespace(vocab_size=7)),
)
PATCHES, WORDS = 5, 6


class Setting:
    """An objective with drawn parameters, encodings and inputs; all of them leaves."""

    def __init__(self, type, rows=4, seed=0, joint=None, **cfg):
        self.rows, self.draw = rows, torch.Generator().manual_seed(seed)
        space = dict(type="JointSpace", dim=3, temperature=0.4) | (joint or {})
        self.spaces = {cfg.get("space") or "joint": SPACES.create(space, "space")}
        (self.space,) = self.spaces.values()
        self.objective = OBJECTIVES.create(dict(type=type) | cfg, "objective")
        self.objective.setup(TOWERS, self.spaces)
        self.objective.double(), self.space.double()
        torch.manual_seed(0)  # parameters are those of all ranks
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter)
        self.next_batch()

    def parameters(self):
        return [*self.objective.parameters(), *self.space.parameters()]

    def next_batch(self):
        """Draws encodings, lengths of captions, hidden words, and captions that come again."""
        needs = sorted(self.objective.needs(), key=repr)
        self.inputs, self.encodings = {}, {}
        said = torch.randint(5, (self.rows,), generator=self.draw)
        for need in needs:
            tower, count = TOWERS[need.tower], WORDS if need.tower == "text" else PATCHES
            pooled = self.normal(self.rows, tower.width)
            tokens, valid = self.normal(self.rows, count, tower.token_width), None
            if need.tower == "text":
                length = torch.randint(2, count + 1, (self.rows, 1), generator=self.draw)
                valid = torch.arange(count) < length
                self.inputs[f"{need.view}.caption"] = said
                self.inputs[f"{need.view}.index"] = torch.tensor([1, count + 2, 2 * count - 1])
                self.inputs[f"{need.view}.target"] = torch.tensor([3, 6, 3])
            self.encodings[need] = Encoding(pooled, tokens, valid)

    def normal(self, *shape):
        return torch.randn(*shape, dtype=torch.float64, generator=self.draw).requires_grad_()

    def encoding(self, view):
        (found,) = [value for need, value in self.encodings.items() if need.view == view]
        return found

    def forward(self):
        return self.objective(Features(self.encodings, self.spaces, self.inputs))

    def embedded(self, view):
        """The view's unit vectors in the joint space."""
        tower = "text" if view.startswith("text") else "image"
        return [unit(v) for v in linear(self.space.project[tower], self.encoding(view).pooled)]

    def scale(self):
        return self.space.logit_scale[0].exp()

    def leaves(self):
        encodings = self.encodings.values()
        return [*self.parameters(), *(x for e in encodings for x in (e.pooled, e.tokens))]


def compare(setting, expected):
    """Equal values, and equal gradients of every parameter and every encoding."""
    loss = setting.forward()["loss"]
    torch.testing.assert_close(loss.detach(), expected.detach(), rtol=1e-9, atol=1e-9)
    leaves = setting.leaves()
    options = dict(allow_unused=True, materialize_grads=True)
    ours, plain = (torch.autograd.grad(value, leaves, **options) for value in (loss, expected))
    assert any(gradient.abs().max() > 1e-3 for gradient in plain), "nothing is compared"
    for mine, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


# -- scalars -------------------------------------------------------------------------------------


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(v):
    length = dot(v, v).sqrt()
    return [x / length for x in v]


def linear(layer, rows):
    bias = [0.0] * layer.out_features if layer.bias is None else layer.bias
    return [[dot(w, row) + b for w, b in zip(layer.weight, bias, strict=True)] for row in rows]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def cross_entropy(logits, target):
    return torch.log(sum(torch.exp(x) for x in logits)) - logits[target]


def info_nce(queries, keys, scale):
    rows = range(len(queries))
    return mean(cross_entropy([scale * dot(queries[i], k) for k in keys], i) for i in rows)


def both_ways(images, texts, scale):
    return (info_nce(images, texts, scale) + info_nce(texts, images, scale)) / 2


def nt_xent(first, second, temperature):
    """Equation 1 of SimCLR: each of the 2 N vectors against the 2 N - 1 others."""
    vectors = [*first, *second]
    losses = []
    for i, vector in enumerate(vectors):
        others = [j for j in range(len(vectors)) if j != i]
        logits = [dot(vector, vectors[j]) / temperature for j in others]
        partner = (i + len(first)) % len(vectors)
        losses.append(cross_entropy(logits, others.index(partner)))
    return mean(losses)


def sigmoid_loss(images, texts, scale, bias):
    """Algorithm 1 of SigLIP: labels are 1 on the diagonal and -1 elsewhere."""
    total = 0.0
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            label = 1 if i == j else -1
            total -= torch.log(torch.sigmoid(label * (scale * dot(image, text) + bias)))
    return total / len(images)


def batch_norm(layer, rows):
    columns = []
    for j, column in enumerate(zip(*rows, strict=True)):
        centre = mean(column)
        spread = torch.sqrt(mean((x - centre) ** 2 for x in column) + 1e-5)
        gain, shift = (1, 0) if layer.weight is None else (layer.weight[j], layer.bias[j])
        columns.append([(x - centre) / spread * gain + shift for x in column])
    return list(zip(*columns, strict=True))


def mlp(layers, rows):
    for layer in layers:
        if isinstance(layer, torch.nn.Linear):
            rows = linear(layer, rows)
        elif isinstance(layer, torch.nn.ReLU):
            rows = [[x.clamp(min=0) for x in row] for row in rows]
        else:
            rows = batch_norm(layer, rows)
    return rows


def simsiam(setting, inputs):
    projections = [mlp(setting.objective.projector, rows) for rows in inputs]
    predictions = [mlp(setting.objective.predictor, rows) for rows in projections]
    cosines = [
        dot(unit(p), unit([x.detach() for x in z]))
        for this, other in ((0, 1), (1, 0))
        for p, z in zip(predictions[this], projections[other], strict=True)
    ]
    return -mean(cosines)


def remember(memory, setting, views):
    for view in views:
        rows = zip(setting.embedded(view), setting.inputs[f"{view}.caption"].tolist(), strict=True)
        memory.extend(([x.detach() for x in row], caption) for row, caption in rows)


def nearest(memory, setting, view):
    found = []
    for query, said in zip(setting.embedded(view), setting.inputs[f"{view}.caption"], strict=True):
        others = [vector for vector, caption in memory if caption != said]
        found.append(max(others, key=lambda vector: dot(query, vector).item()))
    return found
