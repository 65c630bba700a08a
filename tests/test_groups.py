"""Parameter groups: what is decayed, layer-wise rates, multipliers, frozen steps, clipping."""

import copy
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from webssl_plugins.backbones.vit import ViT
from webssl_toolbox.engine import checkpoint
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.groups import outermost
from webssl_toolbox.engine.optim import OptimWrapper
from webssl_toolbox.engine.settings import OptimizerPart, ParameterGroup, settings_from
from webssl_toolbox.engine.settings import OptimWrapper as Cfg
from webssl_toolbox.objective import Need
from webssl_toolbox.schedules import build as build_schedule
from webssl_toolbox.towers import Tower

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
LR, DECAY, STEPS = 1e-2, 0.04, 12
ADAMW = dict(
    type="AdamW",
    lr=dict(type="cosine", start=LR, end=1e-6, warmup=3),
    weight_decay=dict(type="cosine", start=DECAY, end=0.4),
)
SGD = dict(type="SGD", lr=0.1, momentum=0.9)


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def warmed_cosine(start, end, warmup, step):
    """A plain formula, after the text of the papers."""
    if step < warmup:
        return start * (step + 1) / warmup
    return end + (start - end) * 0.5 * (
        1 + math.cos(math.pi * (step + 1 - warmup) / (STEPS - warmup))
    )


class Encoder(Tower):
    """Two blocks between an embedding and a norm."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 5)
        self.blocks = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])
        self.norm = nn.LayerNorm(5)
        self.order = ("embed", "blocks.0", "blocks.1", "norm")
        self.num_layers = 3

    def layer_of(self, name):
        return next(i for i, part in enumerate(self.order) if name.startswith(part))

    def forward(self, x):
        for layer in (self.embed, *self.blocks):
            x = torch.tanh(layer(x))
        return self.norm(x)


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.towers = nn.ModuleDict(dict(image=Encoder()))
        self.spaces = nn.ModuleDict(dict(proto=nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 6))))

    def forward(self, step):
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
        return self.spaces["proto"](self.towers["image"](x)).square().sum()


def wrap(model, optimizer=None, groups=None, parts=None, **more):
    return OptimWrapper(
        Cfg(
            optimizer or ADAMW,
            {name: OptimizerPart(**part) for name, part in (parts or {}).items()},
            groups={name: ParameterGroup(**group) for name, group in (groups or {}).items()},
            precision="fp32",
            **more,
        ),
        model,
        CPU,
    )


def train(model, wrapper, steps):
    for step in steps:
        wrapper.schedule(step, STEPS)
        wrapper.update(model(step))


def rates(wrapper, step):
    """Learning rate and weight decay of each parameter, by its name."""
    wrapper.schedule(step, STEPS)
    return {
        wrapper.names[p]: (group["lr"], group["weight_decay"])
        for optimizer in wrapper.optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    }


# -- a ViT-S, as in DINOv2 -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit_s():
    with torch.device("meta"):
        tower = ViT("S", patch_size=14, registers=4, layer_scale=1e-5)
        tower.plan(frozenset([Need("image", "g1", mask="g1_mask")]))
    model = nn.Module()
    model.towers = nn.ModuleDict(dict(image=tower))
    return model


TOKENS = ["cls_token", "reg_token", "mask_token", "pos_embed"]
DECAYED = ["attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"]
UNDECAYED = [
    *("norm1.weight", "norm1.bias", "attn.qkv.bias", "attn.proj.bias", "ls1.gamma"),
    *("norm2.weight", "norm2.bias", "mlp.fc1.bias", "mlp.fc2.bias", "ls2.gamma"),
]


def test_the_groups_of_a_vit_s_are_those_of_dinov2(vit_s):
    decayed = [*TOKENS, "patch_embed.proj.weight"]
    decayed += [f"blocks.{i}.{name}" for i in range(12) for name in DECAYED]
    rest = ["patch_embed.proj.bias", "norm.weight", "norm.bias"]
    rest += [f"blocks.{i}.{name}" for i in range(12) for name in UNDECAYED]
    by_rule = [n for n in decayed + rest if n.endswith(".bias") or "norm" in n or "gamma" in n]
    assert by_rule == rest  # DINOv2's own rule, by names
    found = {True: [], False: []}
    for name, (lr, decay) in rates(wrap(vit_s), step=0).items():
        assert lr == LR / 3
        assert decay in (0.0, warmed_cosine(DECAY, 0.4, 0, 0))
        found[decay > 0].append(name.removeprefix("towers.image."))
    assert sorted(found[True]) == sorted(decayed)
    assert sorted(found[False]) == sorted(rest)


def test_rates_by_layer_of_a_vit_s(vit_s):
    groups = dict(patch=dict(of="towers.image.patch_embed", lr_mult=0.2))
    wrapper = wrap(vit_s, layer_decay=0.9, groups=groups)
    found = {name.removeprefix("towers.image."): lr for name, (lr, _) in rates(wrapper, 2).items()}
    by_hand = {name: 0.2541865828329 for name in TOKENS}  # 0.9 ** 13
    by_hand |= {f"patch_embed.proj.{name}": 0.05083731656658 for name in ("weight", "bias")}
    blocks = [0.282429536481, 0.31381059609, 0.3486784401, 0.387420489, 0.43046721, 0.4782969]
    blocks += [0.531441, 0.59049, 0.6561, 0.729, 0.81, 0.9]
    for i, factor in enumerate(blocks):
        by_hand |= {f"blocks.{i}.{name}": factor for name in DECAYED + UNDECAYED}
    by_hand |= {"norm.weight": 1.0, "norm.bias": 1.0}
    assert found == pytest.approx({name: LR * factor for name, factor in by_hand.items()})
    # Embedding, patches, 12 blocks: each decayed and not, tokens and the norm only one of both.
    assert len(wrapper.optimizer.param_groups) == 1 + 2 + 12 * 2 + 1


def test_a_simple_config_has_two_groups(vit_s):
    for more in ({}, dict(groups=dict(same=dict(of="towers.image.blocks.3")))):
        groups = wrap(vit_s, **more).optimizer.param_groups
        assert [group["decay_mult"] for group in groups] == [1.0, 0.0]


# -- schedules and shares at chosen steps --------------------------------------------------------

GROUPS = dict(
    tower=dict(of="towers.image", lr_mult=0.5, decay_mult=2.0),
    block=dict(of="towers.image.blocks.1", lr_mult=0.1),
    last=dict(of="spaces.proto.1", freeze=4),
    bias=dict(of="spaces.proto.0.bias", lr_mult=3.0, decay_mult=5.0),
)


@pytest.mark.parametrize("step", [0, 1, 3, 4, 11])
def test_rates_and_decay_at_a_step(step):
    found = rates(wrap(Net(), groups=GROUPS), step)
    lr, decay = warmed_cosine(LR, 1e-6, 3, step), warmed_cosine(DECAY, 0.4, 0, step)
    wanted = {f"towers.image.{name}.weight": (lr / 2, 2 * decay) for name in ("embed", "blocks.0")}
    wanted |= {f"towers.image.{name}.bias": (lr / 2, 0) for name in ("embed", "blocks.0", "norm")}
    wanted |= {"towers.image.norm.weight": (lr / 2, 0)}
    wanted |= {"towers.image.blocks.1.weight": (lr / 10, decay)}  # the inner group takes it
    wanted |= {"towers.image.blocks.1.bias": (lr / 10, 0)}
    wanted |= {"spaces.proto.0.weight": (lr, decay), "spaces.proto.0.bias": (3 * lr, 0)}
    frozen = 0 if step < 4 else lr
    wanted |= {"spaces.proto.1.weight": (frozen, decay), "spaces.proto.1.bias": (frozen, 0)}
    assert found == {name: pytest.approx(pair, rel=1e-12) for name, pair in wanted.items()}


def test_torchs_rates_hold_where_none_is_given():
    found = rates(wrap(Net(), dict(type="AdamW"), dict(a=dict(of="spaces", lr_mult=0.5))), 7)
    assert found["towers.image.embed.weight"] == (1e-3, 1e-2)
    assert found["spaces.proto.0.weight"] == (5e-4, 1e-2)


# As DINOv2 sets them, here over 1000 steps; each value worked out from the formula alone.
SCHEDULES = {
    "rate": (
        dict(type="cosine", start=4e-3, end=1e-6, warmup=100),
        {0: 4e-5, 49: 2e-3, 99: 4e-3, 549: (4e-3 + 1e-6) / 2, 999: 1e-6},
    ),
    "weight decay": (
        dict(type="cosine", start=0.04, end=0.4),
        {249: 0.22 - 0.18 * math.sqrt(0.5), 499: 0.22, 749: 0.22 + 0.18 * math.sqrt(0.5), 999: 0.4},
    ),
    "momentum": (dict(type="cosine", start=0.992, end=1.0), {499: 0.996, 999: 1.0}),
    "teacher temperature": (
        dict(type="linear", start=0.07, end=0.07, warmup=300, warmup_start=0.04),
        {0: 0.0401, 149: 0.055, 299: 0.07, 300: 0.07, 999: 0.07},
    ),
    "fading weight": (dict(type="linear", start=2.0, end=1.0), {249: 1.75, 499: 1.5, 999: 1.0}),
    "number": (0.2, {0: 0.2, 999: 0.2}),
    "constant": (dict(type="constant", value=0.3), {0: 0.3, 999: 0.3}),
}


@pytest.mark.parametrize(("schedule", "values"), SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_at_chosen_steps(schedule, values):
    value = build_schedule(schedule, "x")
    assert {step: value(step, 1000) for step in values} == pytest.approx(values, rel=1e-12)


# -- steps ---------------------------------------------------------------------------------------


def test_steps_equal_a_plain_loop_over_parameters():
    """Layer-wise rates, groups, frozen steps, and clipping by module, written out for AdamW."""
    model = Net()
    plain = copy.deepcopy(model)
    groups = dict(
        last=dict(of="spaces.proto.1", freeze=2), one=dict(of="towers.image.embed", lr_mult=0.2)
    )
    wrapper = wrap(model, groups=groups, layer_decay=0.5, clip_grad=8.0, clip_per="module")
    assert len(wrapper.optimizer.param_groups) == 10  # the norm is in one with a bias of the space
    train(model, wrapper, range(6))

    share = {"embed": 0.2 * 0.125, "blocks.0": 0.25, "blocks.1": 0.5, "norm": 1.0}
    named = dict(plain.named_parameters())
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in named.items()}
    clipped, bound = 0, 8.0
    for step in range(6):
        gradients = dict(zip(named, torch.autograd.grad(plain(step), named.values()), strict=True))
        for module in ("towers.image.", "spaces.proto."):
            inside = [g for name, g in gradients.items() if name.startswith(module)]
            norm = math.sqrt(sum(float((g**2).sum()) for g in inside))
            clipped += norm > bound
            for g in inside:
                g *= min(1.0, bound / (norm + 1e-6))
        lr, decay = warmed_cosine(LR, 1e-6, 3, step), warmed_cosine(DECAY, 0.4, 0, step)
        for name, p in named.items():
            g, (m, v) = gradients[name], moments[name]
            m.copy_(0.9 * m + 0.1 * g)
            v.copy_(0.999 * v + 0.001 * g**2)
            mine = lr * share.get(name.removeprefix("towers.image.").rpartition(".")[0], 1.0)
            if name.startswith("spaces.proto.1") and step < 2:
                mine = 0.0
            with torch.no_grad():
                if p.ndim > 1:
                    p *= 1 - mine * decay
                spread = (v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                p -= mine * m / (1 - 0.9 ** (step + 1)) / spread
    assert 0 < clipped < 12
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, named[name], rtol=1e-10, atol=1e-12, msg=name)


def test_the_norm_that_is_logged_is_of_the_whole_model():
    whole, apart = Net(), Net()
    _, norm = wrap(whole, clip_grad=0.3).update(whole(0))
    _, other = wrap(apart, clip_grad=0.3, clip_per="module").update(apart(0))
    torch.testing.assert_close(norm, other, rtol=1e-14, atol=0)


@pytest.mark.parametrize("optimizer", [ADAMW, SGD], ids=["AdamW", "SGD"])
def test_what_is_frozen_does_not_move_at_all(optimizer):
    model = Net()
    before = copy.deepcopy(model.state_dict())
    wrapper = wrap(model, optimizer, dict(last=dict(of="spaces.proto.1", freeze=3)))
    train(model, wrapper, range(3))
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert moved == before.keys() - {"spaces.proto.1.weight", "spaces.proto.1.bias"}
    train(model, wrapper, range(3, 4))
    assert not model.state_dict()["spaces.proto.1.weight"].equal(before["spaces.proto.1.weight"])


PARTS = dict(proto=dict(of="spaces.proto", optimizer=SGD))


@pytest.mark.parametrize("parts", [{}, PARTS], ids=["one optimizer", "two"])
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_resume_is_exact_in_a_warm_up_and_in_a_freeze(tmp_path, stop, parts):
    settings = dict(groups=GROUPS, parts=parts, layer_decay=0.8, clip_grad=1.0, clip_per="module")
    whole, resumed = Net(), Net(seed=1)
    wrapper, other = wrap(whole, **settings), wrap(resumed, **settings)
    train(whole, wrapper, range(stop))
    path = checkpoint.save(tmp_path, stop, whole, wrapper.optimizer)
    train(whole, wrapper, range(stop, 8))
    checkpoint.load(path, resumed, other.optimizer)
    train(resumed, other, range(stop, 8))
    same = checkpoint.digest(resumed, other.optimizer)
    assert same == checkpoint.digest(whole, wrapper.optimizer)


def test_groups_of_a_part_share_its_rate():
    wrapper = wrap(Net(), groups=GROUPS, parts=PARTS)
    found = rates(wrapper, 5)
    assert found["spaces.proto.0.bias"][0] == pytest.approx(0.3)
    assert found["spaces.proto.1.weight"] == (0.1, 0.0)  # SGD decays nothing unless told
    assert wrapper.rates() == {"lr": warmed_cosine(LR, 1e-6, 3, 5), "lr.proto": 0.1}


# -- mistakes ------------------------------------------------------------------------------------


def test_modules_are_named_by_what_holds_nothing_else():
    every = ["a.b.c", "a.b.d", "a.e", "f"]
    assert outermost(["a.b.c", "a.b.d"], every) == ["a.b"]
    assert outermost(["a.b.d", "f"], every) == ["a.b.d", "f"]
    assert outermost(every, every) == ["a.b", "a.e", "f"]  # entries of the config stay apart


class Plain(nn.Module):
    """A tower that does not count its layers."""

    def __init__(self):
        super().__init__()
        self.towers = nn.ModuleDict(dict(image=Tower(), frozen=nn.Linear(2, 2)))
        self.towers["image"].proj = nn.Linear(2, 2)
        self.towers["frozen"].requires_grad_(False)


WRONG = {
    "a path": (dict(groups=dict(a=dict(of="towers.imgae.proj"))), r"a\.of: towers has no 'imgae'"),
    "no tower": (dict(groups=dict(a=dict(of="image.proj"))), "a.of: the model has no 'image'"),
    "a frozen module": (
        dict(groups=dict(a=dict(of="towers.frozen"))),
        r"optim_wrapper\.groups\.a has nothing to train: .* frozen",
    ),
    "twice": (
        dict(groups=dict(a=dict(of="towers.image"), b=dict(of="towers.image"))),
        r"optim_wrapper\.groups\.b has nothing to train: .* others of groups take them",
    ),
    "no layers": (
        dict(layer_decay=0.9),
        r"optim_wrapper\.layer_decay: towers\.image, a Tower, does not count its layers",
    ),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_the_model_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        wrap(Plain(), **settings)


TYPOS = {
    "groups={'a': {'of': 'towers', 'lr_mul': 2}}": r"groups\.a\.lr_mul; did you mean 'lr_mult'",
    "groups={'a': {'lr_mult': 2}}": r"lacks optim_wrapper\.groups\.a\.of",
    "groups={'a': {'of': 'towers', 'lr_mult': -1}}": r"groups\.a\.lr_mult must not be negative",
    "groups={'a': {'of': 'towers', 'freeze': 0.5}}": r"groups\.a\.freeze must be a whole number",
    "layer_decay=1.1": "layer_decay must be above 0, and at most 1",
    "layer_decay=0": "layer_decay must be above 0, and at most 1",
    "clip_per=modul": "clip_per 'modul' is not known; did you mean 'module'",
}


@pytest.mark.parametrize(("option", "message"), TYPOS.items())
def test_a_typo_is_refused_before_anything_is_built(option, message):
    config = ROOT / "configs/declip_r50_laptop.py"
    with pytest.raises(ValueError, match=message):
        settings_from(load_config(config, [f"optim_wrapper.{option}"]))


def test_print_config_shows_the_groups(monkeypatch, capsys):
    options = ["model.towers.image.depth=2", "optim_wrapper.layer_decay=0.5"]
    options += ["optim_wrapper.groups={'norm': {'of': 'spaces.decoder.norm', 'freeze': 1250}}"]
    config = str(ROOT / "configs/mae_vit_s16_laptop.py")
    typed = ["print_config.py", config, "--param-groups", "--cfg-options", *options]
    monkeypatch.setattr(sys, "argv", typed)
    torch.set_default_dtype(torch.float32)
    runpy.run_path(str(ROOT / "tools/print_config.py"), run_name="__main__")
    text = capsys.readouterr().out
    assert "optim_wrapper.optimizer: AdamW, lr cosine start=0.0015 warmup=50" in text
    cells = [tuple(c.strip() for c in line.split("│")[1:-1]) for line in text.splitlines()]
    width = 192
    assert ("spaces.decoder.norm", "2", "256", "1", "0", "1,250") in cells
    assert ("towers.image.patch_embed", "1", f"{width}", "0.125", "0", "0") in cells
    assert ("towers.image.blocks.0", "4", f"{12 * width**2:,}", "0.25", "1", "0") in cells
    assert ("towers.image.blocks.1", "8", f"{13 * width:,}", "0.5", "0", "0") in cells
