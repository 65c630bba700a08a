"""DINO, iBOT, KoLeo and Gram against loops over scalars; what they do at the edges, and over ranks.

The formulas share no code with the objectives. They are computed in float64.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests import cases
from tests.plain import dot, mean, unit
from webssl_plugins.objectives import _distill
from webssl_toolbox import Encoding, Features, Progress, Space, testing
from webssl_toolbox.engine.dry_run import dry_run
from webssl_toolbox.registry import OBJECTIVES

torch.set_num_threads(1)

ROWS, PATCHES, COUNT = 3, 4, 5  # images, patches of each, prototypes
HIDDEN = dict(
    g1_mask=((1, 1, 0, 1), (0, 0, 0, 0), (0, 1, 0, 0)),
    g2_mask=((1, 0, 0, 0), (0, 1, 1, 0), (0, 0, 0, 0)),
)
TOWERS = {
    name: SimpleNamespace(width=COUNT, token_width=COUNT)
    for name in ("image", "image_ema", "image_gram")
}


class AsTheyAre(Space):
    """Takes encodings for logits."""

    dim = COUNT

    def attach(self, tower, width):
        assert width == COUNT

    def forward(self, x, tower):
        return x


class Setting:
    """An objective over drawn encodings, which are leaves; its head is the identity."""

    def __init__(self, type, seed=0, scale=1.0, dtype=torch.float64, **cfg):
        self.draw, self.scale, self.dtype = torch.Generator().manual_seed(seed), scale, dtype
        self.spaces = dict(proto=AsTheyAre(), proto_ema=AsTheyAre())
        self.objective = OBJECTIVES.create(dict(type=type) | cfg, "objective")
        self.objective.setup(TOWERS, self.spaces)
        self.wide = torch.promote_types(dtype, torch.float32)
        self.objective.to(self.wide)
        self.next_batch()

    def next_batch(self):
        self.encodings, self.inputs = {}, {}
        for need in sorted(self.objective.needs(), key=repr):
            pooled, tokens = self.normal(ROWS, COUNT), self.normal(ROWS, PATCHES, COUNT)
            self.encodings[need] = Encoding(pooled, tokens)
        for name, mask in HIDDEN.items():
            places = [i for i, x in enumerate(x for row in mask for x in row) if x]
            weights = [1 / sum(mask[i // PATCHES]) for i in places]
            self.inputs[f"{name}.index"] = torch.tensor(places, dtype=torch.int64)
            self.inputs[f"{name}.weight"] = torch.tensor(weights, dtype=self.wide)

    def normal(self, *shape):
        drawn = torch.randn(*shape, dtype=torch.float64, generator=self.draw) * self.scale
        return drawn.to(self.dtype).requires_grad_()

    def forward(self, step=0, total=10):
        return self.objective(Features(self.encodings, self.spaces, self.inputs, step, total))

    def of(self, tower, view):
        (found,) = (e for n, e in self.encodings.items() if (n.tower, n.view) == (tower, view))
        return found

    def gradients(self, loss):
        leaves = {
            (need.tower, need.view, kind): getattr(encoding, kind)
            for need, encoding in self.encodings.items()
            for kind in ("pooled", "tokens")
        }
        options = dict(allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, torch.autograd.grad(loss, [*leaves.values()], **options)))


def same(setting, expected):
    """Equal losses and gradients, and no gradient reaches a teacher."""
    loss = setting.forward()["loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    ours, plain = setting.gradients(loss), setting.gradients(expected)
    assert any(gradient.abs().max() > 1e-3 for gradient in plain.values())
    for name, gradient in ours.items():
        wanted = plain[name] if name[0] == "image" else torch.zeros_like(gradient)
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-10)


def softmax(logits):
    total = sum(torch.exp(x) for x in logits)
    return [torch.exp(x) / total for x in logits]


def cross_entropy(teacher, student, centre, sharp=0.04, soft=0.1):
    """Equation 3 of DINO for one pair of logits."""
    target = softmax([(t.detach() - c) / sharp for t, c in zip(teacher, centre, strict=True)])
    seen = softmax([s / soft for s in student])
    return -sum(t * torch.log(s) for t, s in zip(target, seen, strict=True))


# -- DINO ----------------------------------------------------------------------------------------

LOCALS = ("l1", "l2", "l3")


def test_dino_is_the_mean_over_pairs_and_that_is_dinov2s_scaling():
    setting = Setting("DINO", locals=LOCALS, scale=0.2)
    centre = torch.linspace(-0.2, 0.3, COUNT, dtype=torch.float64)
    setting.objective.centre.copy_(centre)

    def compare(view, other):
        pair = setting.of("image_ema", view).pooled, setting.of("image", other).pooled
        return mean(cross_entropy(t, s, centre) for t, s in zip(*pair, strict=True))

    pairs = [(a, b) for a in ("g1", "g2") for b in ("g1", "g2", *LOCALS) if a != b]
    same(setting, mean(compare(*pair) for pair in pairs))

    local = sum(compare(a, b) for a in ("g1", "g2") for b in LOCALS) / 8
    both = mean([compare("g1", "g2"), compare("g2", "g1")])
    torch.testing.assert_close(setting.forward()["loss"], local + 2 * both / 8)


def test_the_centre_is_a_running_mean_of_the_teachers_logits():
    setting = Setting("DINO", momentum=0.8)
    centre = [0.0] * COUNT
    for step in range(4):
        setting.next_batch()
        setting.forward()
        assert setting.objective.centre.tolist() == pytest.approx(centre), "not before the step"
        finite = step != 2
        setting.objective.after_step(Progress(step + 1, 10, torch.tensor(finite)))
        if finite:
            seen = [row for g in ("g1", "g2") for row in setting.of("image_ema", g).pooled.tolist()]
            columns = zip(*seen, strict=True)
            centre = [0.8 * c + 0.2 * mean(x) for c, x in zip(centre, columns, strict=True)]
    assert setting.objective.centre.tolist() == pytest.approx(centre, rel=1e-12)


def test_the_teachers_temperature_may_warm_up():
    warmup = dict(type="linear", start=0.07, end=0.07, warmup=4, warmup_start=0.03)
    warm = Setting("DINO", teacher_temperature=warmup)
    for step, temperature in ((0, 0.04), (1, 0.05), (3, 0.07), (8, 0.07)):
        plain = Setting("DINO", teacher_temperature=temperature)
        torch.testing.assert_close(warm.forward(step)["loss"], plain.forward()["loss"])


def test_entropy_in_nats_and_the_share_of_prototypes_in_use():
    setting = Setting("DINO", teacher_temperature=1)
    certain, even = torch.eye(COUNT).double()[[0, 2, 2]] * 1e3, torch.zeros(ROWS, COUNT).double()
    for need, rows in zip(setting.objective.teachers, (certain, even), strict=True):
        setting.encodings[need] = Encoding(rows, rows)
    logs = setting.forward()
    assert logs["entropy"].item() == pytest.approx(math.log(COUNT) / 2)
    assert logs["use"].item() == pytest.approx(2 / 5)  # ties are the first prototype's


# -- Sinkhorn-Knopp ------------------------------------------------------------------------------


def plain_sinkhorn(logits, temperature, iterations):
    """Algorithm of SwAV's appendix: prototypes, then rows, by turns."""
    q = [[math.exp(x / temperature) for x in row] for row in logits]
    rows, count = len(q), len(q[0])
    for _ in range(iterations):
        share = [sum(row[k] for row in q) for k in range(count)]
        q = [[x / share[k] / count for k, x in enumerate(row)] for row in q]
        q = [[x / sum(row) / rows for x in row] for row in q]
    return [[x * rows for x in row] for row in q]


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn(iterations):
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = _distill.sinkhorn(logits, 0.3, iterations).exp()
    wanted = torch.tensor(plain_sinkhorn(logits.tolist(), 0.3, iterations), dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


def test_sinkhorn_comes_to_equal_shares():
    logits = torch.randn(12, 5, dtype=torch.float64)
    for iterations in (3, 200):
        found = _distill.sinkhorn(logits, 0.5, iterations).exp()
        torch.testing.assert_close(found.sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(found.sum(0), torch.full((5,), 12 / 5, dtype=torch.float64))


@pytest.mark.parametrize("scale", [4.0, 1e3])
def test_sinkhorn_in_float32_far_above_its_range(scale):
    """DINOv2's code overflows above 88 * 0.06 = 5.3."""
    logits = 1e3 + scale * torch.rand(9, 6, generator=torch.Generator().manual_seed(2))
    found = _distill.sinkhorn(logits, 0.06).exp()
    torch.testing.assert_close(found.sum(1), torch.ones(9))
    if scale < 10:  # else scalars underflow
        shifted = (logits.double() - logits.max()).tolist()
        wanted = torch.tensor(plain_sinkhorn(shifted, 0.06, 3))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def test_dino_with_sinkhorns_targets():
    setting = Setting("DINO", centring="sinkhorn", teacher_temperature=0.5)
    views = ("g1", "g2")
    seen = [row for view in views for row in setting.of("image_ema", view).pooled.tolist()]
    targets = plain_sinkhorn(seen, 0.5, 3)
    terms = []
    for first, view in ((0, "g2"), (ROWS, "g1")):
        for i, row in enumerate(setting.of("image", view).pooled):
            answer = softmax([x / 0.1 for x in row])
            terms.append(-sum(t * torch.log(s) for t, s in zip(targets[first + i], answer)))
    same(setting, mean(terms))
    assert not list(setting.objective.buffers())


# -- iBOT ----------------------------------------------------------------------------------------


def test_an_image_counts_by_the_mean_over_its_hidden_patches():
    setting = Setting("IBOT", scale=0.2)
    centre = torch.linspace(0.1, -0.1, COUNT, dtype=torch.float64)
    setting.objective.centre.copy_(centre)
    total = 0.0
    for view in ("g1", "g2"):
        pair = setting.of("image_ema", view).tokens, setting.of("image", view).tokens
        for b, row in enumerate(HIDDEN[f"{view}_mask"]):
            losses = [cross_entropy(pair[0][b, p], pair[1][b, p], centre) for p in range(PATCHES)]
            hidden = [loss for loss, x in zip(losses, row) if x]
            total = total + (mean(hidden) if hidden else 0.0)
    same(setting, total / (2 * ROWS))  # images that hide nothing are in the number, as in DINOv2

    setting.objective.after_step(Progress(1, 10, torch.tensor(True)))
    seen = [
        setting.of("image_ema", view).tokens[b, p]
        for view in ("g1", "g2")
        for b, row in enumerate(HIDDEN[f"{view}_mask"])
        for p, x in enumerate(row)
        if x
    ]
    wanted = 0.9 * centre + 0.1 * torch.stack(seen).mean(0)
    torch.testing.assert_close(setting.objective.centre, wanted.detach())


@pytest.mark.parametrize("name", ["ibot", "ibot_sinkhorn"])
def test_a_batch_without_masks_has_no_loss_and_no_missing_gradient(name):
    model = testing.build(cases.OBJECTIVES[name])
    batch = testing.inputs(model, cases.OBJECTIVES[name])
    for mask in cases.MASKS:
        batch[mask] = torch.zeros_like(batch[mask])
        for key in (f"{mask}.index", f"{mask}.weight"):
            batch[key] = batch[key][:0]
    model.objectives["ibot"].register_buffer("centre", torch.ones(12).double())
    losses, logs = model(batch)
    losses["ibot.loss"].backward()
    assert losses["ibot.loss"] == 0 and all(value.isfinite() for value in logs.values())
    assert all(p.grad.eq(0).all() for p in model.parameters() if p.requires_grad)
    model.after_step(Progress(1, 10, torch.tensor(True)))
    assert model.objectives["ibot"].centre.eq(1).all(), "a mean over nothing"


# -- KoLeo ---------------------------------------------------------------------------------------


def test_koleo_is_the_distance_to_the_nearest_of_all_others():
    setting = Setting("KoLeo", views=("g1", "g2"))
    total = 0.0
    for view in ("g1", "g2"):
        points = [unit(row) for row in setting.of("image", view).pooled]
        for i, point in enumerate(points):
            others = ([a - b for a, b in zip(point, x)] for j, x in enumerate(points) if j != i)
            nearest = min((dot(d, d) for d in others), key=lambda d: d.item())
            total = total - torch.log(nearest**0.5 + 1e-8) / len(points)
    same(setting, total)


def test_koleo_of_near_and_of_equal_images():
    setting = Setting("KoLeo", views=("g1",), dtype=torch.float32)
    (need,) = setting.objective.needs()
    row = torch.tensor([1.0, 0, 0, 0, 0])
    near = torch.stack([row, row + torch.tensor([0, 1e-4, 0, 0, 0]), -row])
    setting.encodings[need] = Encoding(near, near)
    wanted = -(2 * math.log(1e-4) + math.log(2)) / 3
    assert setting.forward()["loss"].item() == pytest.approx(wanted, rel=1e-3)

    equal = row.expand(ROWS, -1).clone().requires_grad_()
    setting.encodings[need] = Encoding(equal, equal)
    loss = setting.forward()["loss"]
    loss.backward()
    assert loss.isfinite() and equal.grad.isfinite().all()


@pytest.mark.parametrize("per_rank", [True, False])
def test_koleo_refuses_one_image_and_says_whether_it_is_per_rank(per_rank):
    setting = Setting("KoLeo", views=("g1",), per_rank=per_rank)
    assert setting.objective.rank_local == per_rank
    (need,) = setting.objective.needs()
    setting.encodings[need] = Encoding(torch.ones(1, COUNT), torch.ones(1, 1, COUNT))
    with pytest.raises(ValueError, match="one alone; raise train_dataloader") as raised:
        setting.forward()
    assert ("per_rank=False" in str(raised.value)) == per_rank


# -- Gram ----------------------------------------------------------------------------------------


def test_gram_is_the_mean_squared_difference_of_cosines():
    setting = Setting("Gram")
    terms = []
    for view in ("g1", "g2"):
        pair = setting.of("image", view).tokens, setting.of("image_gram", view).tokens.detach()
        for image in zip(*pair, strict=True):
            mine, theirs = ([unit(patch) for patch in patches] for patches in image)
            for i in range(PATCHES):
                for j in range(PATCHES):
                    terms.append((dot(mine[i], mine[j]) - dot(theirs[i], theirs[j])) ** 2)
    same(setting, mean(terms))


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (dict(type="DINO", globals=("g1",)), "make no pair; give two global crops"),
        (dict(type="DINO", masks=("g1_mask",)), "must be as many as the views"),
        (dict(type="IBOT", masks=("g1_mask",)), "must be as many as the views"),
        (dict(type="DINO", centring="mean"), "'mean' is neither 'centre' nor 'sinkhorn'"),
        (dict(type="IBOT", teacher_temperature=dict(type="step")), "IBOT: teacher_temperature"),
    ],
)
def test_arguments_that_make_no_sense(cfg, message):
    with pytest.raises(ValueError, match=message):
        OBJECTIVES.create(cfg, "model.objectives.x")


# -- shared work, precision, ranks ---------------------------------------------------------------

DINOV2 = cases.OBJECTIVES["dinov2"]


def test_dino_ibot_and_koleo_share_one_pass_of_the_student_and_one_of_the_teacher():
    model = testing.build(DINOV2)
    calls = {name: [] for name in ("image", "image_ema", *model.spaces)}
    for name in calls:
        module = model.towers[name] if name in model.towers else model.spaces[name]
        module.register_forward_pre_hook(lambda _, args, name=name: calls[name].append(args[0]))
    model(testing.inputs(model, DINOV2))
    crops = {
        name: [(s.need.view, s.need.mask) for segments in calls[name] for s in segments]
        for name in ("image", "image_ema")
    }
    assert {name: len(found) for name, found in calls.items()} == dict.fromkeys(calls, 1)
    assert crops["image"] == [("g1", "g1_mask"), ("g2", "g2_mask"), ("l1", None)]
    assert crops["image_ema"] == [("g1", None), ("g2", None)]


def test_a_step_reads_nothing_on_the_host():
    for case in (DINOV2, cases.EVERYTHING):
        dry_run(replace(case, sizes={}).model)


@pytest.mark.parametrize("centring", ["centre", "sinkhorn"])
@pytest.mark.parametrize("type", ["DINO", "IBOT", "KoLeo", "Gram"])
def test_bfloat16_at_logits_of_a_thousand(type, centring):
    cfg = dict(centring=centring) if type in ("DINO", "IBOT") else {}
    setting = Setting(type, scale=1e3, dtype=torch.bfloat16, **cfg)
    with torch.autocast("cpu", torch.bfloat16):
        found = setting.forward()
    assert found["loss"].dtype == torch.float32
    assert all(value.isfinite() for value in found.values())
    gradients = setting.gradients(found["loss"])
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_a_model_under_autocast_has_finite_float32_losses():
    model = testing.build(DINOV2).float()
    values = testing.inputs(model, DINOV2)
    values = {n: v.float() if v.is_floating_point() else v for n, v in values.items()}
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = model(values)
    sum(losses.values()).backward()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_four_ranks_of_one_image_some_without_masks_equal_one_process():
    ranks = [replace(DINOV2, rows=4, steps=1), replace(cases.OBJECTIVES["ibot"], rows=4)]
    model = testing.build(ranks[0])
    rows = [testing.inputs(model, ranks[0], rank=rank, ranks=4) for rank in range(4)]
    hidden = [sum(len(row[f"{mask}.index"]) for mask in cases.MASKS) for row in rows]
    assert 0 in hidden and len(set(hidden)) > 2
    testing.check_ranks(ranks, ranks=4)
