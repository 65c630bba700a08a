"""One optimizer for the model, or others for its parts."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from webssl_toolbox.engine import checkpoint
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.optim import OptimWrapper
from webssl_toolbox.engine.settings import OptimizerPart, settings_from
from webssl_toolbox.engine.settings import OptimWrapper as Cfg

ADAMW = dict(type="AdamW", lr=dict(type="linear", start=1e-2), weight_decay=0.1)
SGD = dict(type="SGD", lr=dict(type="cosine", start=0.5, warmup=2), momentum=0.9, nesterov=True)
SGD["weight_decay"] = dict(type="linear", start=0.04, end=0.4)
SGD_RATES = [0.25, 0.5, *(0.25 * (1 + math.cos(math.pi * n / 7)) for n in range(1, 5))]
CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[1] / "configs"


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        layers = dict(image=nn.Linear(4, 3), text=nn.Linear(5, 3), frozen=nn.Linear(2, 2))
        self.towers = nn.ModuleDict(layers)
        self.towers["frozen"].requires_grad_(False)
        self.head = nn.Linear(3, 2)

    def forward(self, image, text):
        return self.head(self.towers["image"](image) * self.towers["text"](text)).square().sum()


def wrap(model, clip=None, **parts):
    parts = {name: OptimizerPart(of, dict(optimizer)) for name, (of, optimizer) in parts.items()}
    return OptimWrapper(Cfg(ADAMW, parts, clip_grad=clip, precision="fp32"), model, CPU)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(6, n, generator=generator) for n in (4, 5)]


def train(model, wrapper, steps, spoil=()):
    for step in steps:
        image, text = batch(step)
        if step in spoil:
            image[0, 0] = float("nan")
        wrapper.schedule(step, 9)
        wrapper.update(model(image, text))


def test_each_part_moves_as_under_plain_torch():
    model = Net()
    plain, wrapper = copy.deepcopy(model), wrap(model, clip=0.1, image=("towers.image", SGD))
    train(model, wrapper, range(6))

    image, text, head = plain.towers["image"], plain.towers["text"], plain.head
    sgd = torch.optim.SGD([image.weight, image.bias], lr=1, momentum=0.9, nesterov=True)
    decayed = dict(params=[text.weight, head.weight], weight_decay=0.1)
    adamw = torch.optim.AdamW([decayed, dict(params=[text.bias, head.bias], weight_decay=0)])
    for step in range(6):
        sgd.param_groups[0]["lr"] = SGD_RATES[step]
        for group in adamw.param_groups:
            group["lr"] = 1e-2 * (1 - (step + 1) / 9)
        plain.zero_grad()
        plain(*batch(step)).backward()
        torch.nn.utils.clip_grad_norm_([p for p in plain.parameters() if p.requires_grad], 0.1)
        with torch.no_grad():  # decay, on the matrix alone
            image.weight.grad.add_(image.weight, alpha=0.04 + 0.36 * (step + 1) / 9)
        sgd.step()
        adamw.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], msg=name)
    assert wrapper.rates() == pytest.approx({"lr": 1e-2 * 3 / 9, "lr.image": SGD_RATES[5]})


def test_inner_modules_win_and_the_rest_goes_to_the_first():
    wrapper = wrap(Net(), all=("towers", ADAMW), image=("towers.image", SGD))
    found = {part.name: list(part.parameters) for part in wrapper.parts}
    assert found == {
        "": ["head.weight", "head.bias"],
        "all": ["towers.text.weight", "towers.text.bias"],
        "image": ["towers.image.weight", "towers.image.bias"],
    }


def test_a_skipped_step_changes_no_part():
    model = Net()
    wrapper = wrap(model, image=("towers.image", SGD))
    for steps, spoil in ((range(1), [0]), (range(1, 3), []), (range(3, 4), [3])):
        before = checkpoint.digest(model, wrapper.optimizer)
        train(model, wrapper, steps, spoil=spoil)
        after = checkpoint.digest(model, wrapper.optimizer)
        assert (before["model"] == after["model"]) == bool(spoil)
        if 3 in steps:  # fused Adam creates its state in the first step, even a skipped one
            assert before == after


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_resume_is_exact_for_all_parts(tmp_path, stop):
    parts = dict(image=("towers.image", SGD))
    whole, resumed = Net(), Net(seed=1)
    wrapper, other = wrap(whole, **parts), wrap(resumed, **parts)
    train(whole, wrapper, range(stop))
    path = checkpoint.save(tmp_path, stop, whole, wrapper.optimizer)
    train(whole, wrapper, range(stop, 8))
    train(resumed, other, range(2))  # a used optimizer is replaced
    checkpoint.load(path, resumed, other.optimizer)
    train(resumed, other, range(stop, 8))
    same = checkpoint.digest(resumed, other.optimizer)
    assert same == checkpoint.digest(whole, wrapper.optimizer)


OTHERS = {
    "one optimizer": dict(),
    "another type": dict(image=("towers.image", ADAMW)),
    "another module": dict(image=("towers.text", SGD)),
}


@pytest.mark.parametrize("parts", OTHERS.values(), ids=OTHERS)
def test_state_of_other_parts_is_refused(tmp_path, parts):
    model = Net()
    wrapper = wrap(model, image=("towers.image", SGD))
    train(model, wrapper, range(2))
    path = checkpoint.save(tmp_path, 2, model, wrapper.optimizer)
    assert checkpoint.verify(path)["optimizer"]["type"] == {
        "": "AdamW",
        "towers.image": "SGD with momentum",
    }
    with pytest.raises(ValueError, match=r"holds the state of .*towers\.image.*SGD"):
        checkpoint.load(path, model, wrap(model, **parts).optimizer, strict=False)


MISTAKES = {
    "no such module": (
        dict(image=("towers.imgae", SGD)),
        "parts.image.of: towers has no 'imgae'; did you mean 'image'",
    ),
    "a frozen module": (dict(image=("towers.frozen", SGD)), "parts.image has nothing to train"),
    "twice": (
        dict(a=("head", SGD), b=("head", SGD)),
        "optim_wrapper.parts.b has nothing to train.*leave it out",
    ),
    "nothing left": (
        dict(a=("towers", SGD), b=("head", SGD)),
        "optim_wrapper.optimizer has nothing to train.*parts take all; remove one",
    ),
    "an unknown type": (
        dict(image=("head", dict(type="SDG"))),
        "optim_wrapper.parts.image.optimizer.type 'SDG'.*'SGD'",
    ),
    "an unknown argument": (
        dict(image=("head", dict(type="SGD", betas=1))),
        "parts.image.optimizer.betas: SGD takes no such argument",
    ),
}


@pytest.mark.parametrize(("parts", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_part_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        wrap(Net(), **parts)


def test_what_got_no_gradient_is_named_by_its_outermost_module():
    model = Net()
    wrapper = wrap(model)
    with pytest.raises(ValueError, match=r"no objective trains towers\.image, towers\.text \(4 "):
        wrapper.update(model.head(torch.ones(3)).sum())


TYPOS = {
    "a key": (
        dict(of="towers", optimiser={}),
        r"parts\.image\.optimiser; did you mean 'optimizer'",
    ),
    "no module": (dict(optimizer=SGD), r"lacks optim_wrapper\.parts\.image\.of"),
    "a type": (
        dict(of="towers", optimizer=dict(type="SDG")),
        r"image\.optimizer\.type 'SDG'.*'SGD'",
    ),
    "an argument": (
        dict(of="towers", optimizer=dict(type="SGD", momentun=0.9)),
        r"image\.optimizer\.momentun: SGD takes no such argument.*'momentum'",
    ),
    "a rate": (dict(of="towers", optimizer=dict(type="SGD", lr="1")), r"image\.optimizer\.lr: "),
}


@pytest.mark.parametrize(("part", "message"), TYPOS.values(), ids=TYPOS)
def test_a_typo_in_a_part_is_refused(part, message):
    cfg = load_config(CONFIGS / "declip_r50_laptop.py")
    cfg["optim_wrapper"]["parts"] = dict(image=part)
    with pytest.raises(ValueError, match=message):
        settings_from(cfg)


def test_a_wrong_optimizer_is_refused_before_anything_is_built():
    cfg = load_config(CONFIGS / "declip_r50_laptop.py", ["optim_wrapper.optimizer.type=AdamQ"])
    with pytest.raises(ValueError, match=r"optim_wrapper\.optimizer\.type 'AdamQ'.*'Adam'"):
        settings_from(cfg)


def test_a_child_config_removes_an_inherited_part(tmp_path):
    base, child = tmp_path / "base.py", tmp_path / "child.py"
    base.write_text("optim_wrapper = dict(parts=dict(image=dict(of='towers.image')))")
    child.write_text("_base_ = ['base.py']\noptim_wrapper = dict(parts=dict(image=None))")
    assert load_config(child)["optim_wrapper"]["parts"] == {"image": None}
    child.write_text("_base_ = ['base.py']\noptim_wrapper = dict(parts=dict(imgae=None))")
    with pytest.raises(ValueError, match=r"imgae = None removes nothing.*'image'"):
        load_config(child)
