"""Composition: what is built, with which weights, how often it runs, and how averages follow."""

import copy
import math

import pytest
import torch
from torch import nn

from tests import cases
from webssl_toolbox import Need, Objective, Progress
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.features import Features
from webssl_toolbox.registry import MODELS, OBJECTIVES, SPACES
from webssl_toolbox.schedules import build as build_schedule
from webssl_toolbox.testing import Case, build, inputs

torch.set_num_threads(1)

DECLIP = cases.DECLIP.model
NAMES = list(DECLIP["objectives"])


def create(cfg, **more):
    return MODELS.create({"type": "Pretrainer"} | copy.deepcopy(dict(cfg)) | more, "model")


@pytest.fixture(scope="module")
def declip():
    return create(DECLIP).state_dict()


# -- what is built -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_removing_an_objective_changes_no_other_weight(tmp_path, declip, name):
    """By a child config, as a user removes it: what remains starts from the very same bits."""
    (tmp_path / "base.py").write_text(f"model = {DECLIP!r}\n")
    child = tmp_path / "child.py"
    child.write_text(f"_base_ = ['base.py']\nmodel = dict(objectives=dict({name}=None))\n")
    remaining = create(load_config(child)["model"])
    assert list(remaining.objectives) == [other for other in NAMES if other != name]
    state = remaining.state_dict()
    assert state.keys() <= declip.keys()
    for key, value in state.items():
        assert torch.equal(value, declip[key]), f"{key} differs without {name}"
    gone = declip.keys() - state.keys()
    assert all(key.startswith((f"objectives.{name}.", "towers.", "spaces.")) for key in gone)
    own = [key for key in declip if key.startswith(f"objectives.{name}.")]
    assert not own or gone >= set(own)


@pytest.mark.parametrize("name", NAMES)
def test_an_objective_alone_starts_from_the_same_weights(declip, name):
    """Fewer towers are built, so whatever drew before another one no longer does."""
    objectives = {other: DECLIP["objectives"][name] if other == name else None for other in NAMES}
    state = create(DECLIP, objectives=objectives).state_dict()
    assert len(state) < len(declip)
    assert all(torch.equal(value, declip[key]) for key, value in state.items())


def test_an_added_tower_or_space_changes_no_other_weight(declip):
    order = dict(text=DECLIP["towers"]["text"], image=DECLIP["towers"]["image"], more=cases.VIT)
    spaces = dict(other=dict(type="JointSpace", dim=4), **DECLIP["spaces"])
    state = create(DECLIP, towers=order, spaces=spaces).state_dict()
    assert state.keys() == declip.keys()
    assert all(torch.equal(state[key], declip[key]) for key in declip)


def test_weights_are_a_function_of_the_seed_alone(declip):
    torch.manual_seed(1234)
    before = torch.random.get_rng_state()
    again, other = create(DECLIP).state_dict(), create(DECLIP, seed=1).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before), "building used up random numbers"
    assert all(torch.equal(again[key], declip[key]) for key in declip)
    differ = [key for key in declip if not torch.equal(other[key], declip[key])]
    drawn = [key for key in declip if key.endswith("weight") and declip[key].ndim > 1]
    assert set(drawn) <= set(differ), "some weights do not depend on the seed"


def test_what_nothing_needs_is_not_built():
    towers = dict(cases.TOWERS, spare=cases.VIT, image_ema=dict(type="EMA", of="towers.image"))
    spaces = dict(cases.JOINT, spare=dict(type="JointSpace", dim=4))
    simsiam = dict(simsiam=dict(type="SimSiam", dim=16, hidden=8))
    model = create(dict(towers=towers, spaces=spaces, objectives=simsiam))
    assert list(model.towers) == ["image"] and not model.spaces
    assert model.needed_inputs() == {"v1", "v2"}
    model = create(dict(towers=towers, spaces=spaces, objectives=dict(clip=dict(type="CLIP"))))
    assert sorted(model.towers) == ["image", "text"] and list(model.spaces) == ["joint"]


def test_a_teacher_brings_its_source_and_starts_equal(registered):
    cfg = dict(
        towers=dict(teacher=dict(type="EMA", of="towers.image"), image=cases.VIT),
        objectives=dict(probe=dict(type="Probe", tower="teacher")),
    )
    model = create(cfg)
    assert list(model.towers) == ["image", "teacher"]
    source, copied = (m.state_dict() for m in (model.towers.image, model.towers.teacher.module))
    assert all(torch.equal(source[key], copied[key]) for key in source)
    assert not any(p.requires_grad for p in model.towers.teacher.parameters())
    assert model.towers.teacher.width == model.towers.image.width


def test_without_objectives_all_towers_are_built():
    model = create(dict(towers=cases.TOWERS, objectives=dict(clip=None)))
    assert list(model.towers) == list(cases.TOWERS) and not model.spaces and not model.plan


# -- a step --------------------------------------------------------------------------------------


class Probe(Objective):
    """Reads encodings of one tower and nothing else."""

    def __init__(self, tower="image", views=("v1",)):
        super().__init__()
        self.wanted = [Need(tower, view) for view in views]

    def needs(self):
        return frozenset(self.wanted)

    def forward(self, features):
        loss = sum(features[need].pooled.square().mean() for need in self.wanted)
        return {"loss": loss, "loss_again": 2 * loss, "value": 3 * loss}


@pytest.fixture
def registered(monkeypatch):
    assert "CLIP" in OBJECTIVES and "JointSpace" in SPACES
    monkeypatch.setitem(OBJECTIVES.module_dict, "Probe", Probe)


def test_a_weight_is_a_number_or_a_schedule_and_weighs_losses_alone(registered):
    weight = dict(type="cosine", start=2.0, end=1.0, warmup=2)
    cfg = dict(
        towers=dict(image=cases.VIT),
        objectives=dict(a=dict(type="Probe", weight=weight), b=dict(type="Probe", weight=0.5)),
    )
    case = Case(cfg)
    model = build(case)
    expected = build_schedule(weight, "weight")
    for step in (0, 1, 5, 9):
        model.step, model.total = step, 10
        losses, logs = model(inputs(model, case))
        assert sorted(losses) == ["a.loss", "a.loss_again", "b.loss", "b.loss_again"]
        assert sorted(logs) == sorted([*losses, "a.value", "b.value", "towers.image.std"])
        for name, loss in losses.items():
            factor = expected(step, 10) if name.startswith("a.") else 0.5
            torch.testing.assert_close(loss.detach(), logs[name] * factor)
        assert not any(value.requires_grad for value in logs.values())


def test_schedules_reach_their_ends():
    value = build_schedule(dict(type="cosine", start=2.0, end=0.5, warmup=4), "x")
    curve = [value(step, 20) for step in range(20)]
    assert curve[:4] == [0.5, 1.0, 1.5, 2.0]
    assert curve[3] > curve[4] and curve[-1] == pytest.approx(0.5)
    assert curve[3:] == sorted(curve[3:], reverse=True)
    middle = 0.5 + 1.5 * (1 + math.cos(math.pi * 8 / 16)) / 2
    assert curve[4 + 7] == pytest.approx(middle)
    line = build_schedule(dict(type="linear", start=1.0), "x")
    assert [line(step, 4) for step in range(4)] == pytest.approx([0.75, 0.5, 0.25, 0.0])
    assert build_schedule(3, "x")(7, 10) == 3.0


def test_evaluation_is_a_pure_function_of_the_inputs():
    model = build(cases.EVERYTHING).eval()
    batch = inputs(model, cases.EVERYTHING)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    kept = {key: value.clone() for key, value in batch.items()}
    torch.manual_seed(1)
    first = model(batch)
    torch.manual_seed(2)
    model(inputs(model, cases.EVERYTHING, draw=5))
    second = model(batch)
    for one, two in zip(first, second, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(value, kept[key]) for key, value in batch.items())


class Calls:
    """Counts the calls of modules, and the rows that went through them."""

    def __init__(self, **modules):
        self.count = dict.fromkeys(modules, 0)
        self.rows = dict.fromkeys(modules, 0)
        for name, module in modules.items():
            module.register_forward_hook(self.note(name))

    def note(self, name):
        def hook(module, arguments, output):
            self.count[name] += 1
            if torch.is_tensor(arguments[0]):
                self.rows[name] += len(arguments[0])

        return hook


def test_a_vit_encodes_all_views_of_a_size_in_one_pass(registered):
    """Counted inside the tower: one call of the tower may still hide a pass for each view."""
    views = ("v1", "v2", "v3", "v4")
    cfg = dict(towers=dict(image=cases.VIT), objectives=dict(p=dict(type="Probe", views=views)))
    case = Case(cfg)
    model = build(case)
    tower = model.towers.image
    blocks = {f"block{i}": block for i, block in enumerate(tower.blocks)}
    calls = Calls(
        tower=tower,
        embed=tower.patch_embed,
        qkv=tower.blocks[0].attn.qkv,
        norm=tower.norm,
        **blocks,
    )
    model(inputs(model, case))
    assert set(calls.count.values()) == {1}, calls.count
    assert calls.rows["embed"] == 4 * case.rows
    assert calls.rows["block0"] == 4 * case.rows * (tower.num_patches() + tower.prefix)


def test_attention_runs_once_for_each_sequence_length(registered, monkeypatch):
    cfg = dict(
        towers=dict(image=cases.VIT),
        objectives=dict(p=dict(type="Probe", views=("v1", "v2", "l1", "l2", "l3"))),
    )
    case = Case(cfg, sizes=dict(l1=8, l2=8, l3=8))
    model = build(case)
    shapes = []
    real = nn.functional.scaled_dot_product_attention

    def spy(query, *rest, **options):
        shapes.append(tuple(query.shape[:3:2]))
        return real(query, *rest, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    calls = Calls(block=model.towers.image.blocks[0])
    model(inputs(model, case))
    depth = len(model.towers.image.blocks)
    assert calls.count["block"] == 1, "locals and globals share the linear layers"
    assert sorted(shapes) == sorted([(12, 5), (18, 2)] * depth)


def test_each_tower_is_called_once_a_step():
    model = build(cases.DECLIP)
    calls = Calls(image=model.towers.image, text=model.towers.text)
    for step in range(2):
        model(inputs(model, cases.DECLIP, step))
    assert calls.count == dict(image=2, text=2)


def test_equal_needs_are_one_encoding(registered):
    probes = {name: dict(type="Probe", views=("v1", "v2")) for name in ("a", "b", "c")}
    model = build(Case(dict(towers=dict(image=cases.VIT), objectives=probes)))
    assert model.plan == {"image": (Need("image", "v1"), Need("image", "v2"))}


# -- averages ------------------------------------------------------------------------------------


def test_an_average_follows_as_a_plain_loop_does(registered):
    momentum = dict(type="linear", start=0.9, end=1.0)
    cfg = dict(
        towers=dict(
            image=cases.RESNET, teacher=dict(type="EMA", of="towers.image", momentum=momentum)
        ),
        objectives=dict(a=dict(type="Probe"), b=dict(type="Probe", tower="teacher")),
    )
    case = Case(cfg)
    model = build(case)
    source, average = model.towers.image, model.towers.teacher.module
    mine = {key: value.detach().clone() for key, value in source.named_parameters()}
    schedule = build_schedule(momentum, "momentum")
    for step in range(4):
        model.step, model.total = step, 10
        losses, _ = model(inputs(model, case, step))
        losses["a.loss"].backward()
        finite = step != 2  # a skipped step moves nothing
        with torch.no_grad():
            for parameter in source.parameters():
                if finite:
                    parameter -= 0.1 * parameter.grad
                parameter.grad = None
        model.after_step(Progress(step + 1, 10, torch.tensor(finite)))
        if finite:
            keep = schedule(step, 10)
            for key, value in source.named_parameters():
                mine[key] = keep * mine[key] + (1 - keep) * value.detach()
        for key, value in average.named_parameters():
            torch.testing.assert_close(value.detach(), mine[key], rtol=1e-12, atol=1e-14)
    assert any(not torch.equal(a, b) for a, b in zip(source.parameters(), average.parameters()))


def test_an_earlier_teacher_is_copied_now_and_then(registered):
    cfg = dict(
        towers=dict(
            anchor=dict(type="EMA", of="towers.teacher", momentum=0.0, every=3),
            teacher=dict(type="EMA", of="towers.image", momentum=0.5),
            image=cases.VIT,
        ),
        objectives=dict(a=dict(type="Probe"), b=dict(type="Probe", tower="anchor")),
    )
    model = build(Case(cfg))
    teacher, anchor = (model.towers[name].module.cls_token for name in ("teacher", "anchor"))
    copied = anchor.clone()
    for step in range(1, 8):
        with torch.no_grad():
            model.towers.image.cls_token.add_(1.0)
        model.after_step(Progress(step, 10))
        copied = teacher.clone() if step % 3 == 0 else copied
        assert torch.equal(anchor, copied)
        assert torch.equal(anchor, teacher) == (step % 3 == 0)


def test_averages_that_follow_each_other_are_refused(registered):
    towers = dict(
        a=dict(type="EMA", of="towers.b"), b=dict(type="EMA", of="towers.a"), image=cases.VIT
    )
    with pytest.raises(ValueError, match=r"cannot follow of='towers\.a'"):
        create(dict(towers=towers, objectives=dict(p=dict(type="Probe", tower="a"))))


def test_objectives_read_schedules_at_the_step(registered):
    shared = Features({}, {}, {}, step=3, total=10)
    assert shared.at(build_schedule(dict(type="linear", start=1.0), "x")) == pytest.approx(0.6)
