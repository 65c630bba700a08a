"""Every shipped config is valid, runs a step without numbers, and leaves no parameter untrained."""

from pathlib import Path

import pytest
import torch

from webssl_toolbox import Progress
from webssl_toolbox.encoder import Encoder
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.dry_run import build_on_meta, dry_run
from webssl_toolbox.engine.parts import split
from webssl_toolbox.engine.settings import settings_from
from webssl_toolbox.pretrainer import Pretrainer
from webssl_toolbox.testing import Case, inputs

CONFIGS = Path(__file__).parents[1] / "configs"
PAPER = sorted(path.stem for path in (CONFIGS / "paper").glob("*.py"))
SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.py")) + [f"paper/{name}" for name in PAPER]


def settings(name, *options):
    return settings_from(load_config(CONFIGS / f"{name}.py", options))


def size(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize("name", SHIPPED)
def test_it_runs_and_trains_all_of_itself(name):
    s = settings(name)
    model = dry_run(s.model)
    declared = {view for view, steps in s.train_dataloader.views.items() if steps}
    assert model.needed_inputs() <= declared
    split(s.optim_wrapper, model)
    if s.test_view:  # which must fit the size of the tower
        Encoder(model, s.test_view, s.test_tower)


def test_vit_b32_has_the_size_of_openais():
    model = dry_run(settings("paper/clip_vit_b32_yfcc15m").model)
    joint = model.spaces["joint"].project
    # What OpenAI's ViT-B/32 has, by its shapes, and one bias more: of the patch projection.
    block = 12 * 768**2 + 13 * 768
    embedding = 3 * 32**2 * 768 + 768 + 50 * 768
    visual = embedding + 2 * 2 * 768 + 12 * block + 768 * 512
    assert visual == 87_849_216  # "visual 87.8M"
    assert size(model.towers["image"], joint["image"]) == visual + 768
    # The text transformer of 63.4M, with one id more: the mask.
    text = 49_408 * 512 + 77 * 512 + 12 * (12 * 512**2 + 13 * 512) + 2 * 512 + 512 * 512
    assert text == 63_428_096
    assert size(model.towers["text"], joint["text"]) == text + 512


def test_resnet_50_has_the_size_of_openais():
    model = dry_run(settings("paper/clip_r50_yfcc15m").model)
    assert size(model.towers["image"]) == 38_316_896  # "RN50 visual 38.3M"


# Parameters of the image tower, in millions. Of ViT-S, B, L and H those in timm's model cards of
# the headless models. Web-SSL's paper gives names and shapes (table 1): these are worked out from
# them, for its Web-DINO, whose SwiGLU has as many weights as the MLPs here but for roundings.
ENCODERS = {
    "slip_vit_s16_yfcc15m": 21.7,
    "slip_vit_b16_yfcc15m": 85.8,
    "slip_vit_l16_yfcc15m": 303.3,
    "mae_vit_b16": 85.8,
    "mae_vit_l16": 303.3,
    "mae_vit_h14": 630.8,
    "mae_clip_vit_b16_11m": 85.8,
    "web_mae_300m": 304,
    "web_mae_700m": 630,
    "web_mae_1b": 1135,
    "web_mae_2b": 2084,
    "web_mae_3b": 2948,
    "web_mae_5b": 4938,
    "web_clip_1b": 1135,
    "web_clip_2b": 2084,
    "web_clip_3b": 2948,
    "web_clip_5b": 4938,
    "web_clip_7b": 6450,
    "dino_vit_s16": 21.7,
    "dinov2_vit_l16": 303.3,
    "dinov2_vit_g14": 1135,
    "web_dino_300m": 304,
    "web_dino_1b": 1135,
    "web_dino_2b": 2084,
    "web_dino_3b": 2948,
    "web_dino_5b": 4938,
    "web_dino_7b": 6450,
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_have_the_published_size(name):
    model = build_on_meta(settings(f"paper/{name}").model)
    assert size(model.towers["image"]) == pytest.approx(ENCODERS[name] * 1e6, rel=0.005)


def test_mae_is_trained_as_published():
    s = settings("paper/mae_vit_l16")
    optimizer = s.optim_wrapper.optimizer
    assert optimizer["lr"]["start"] == pytest.approx(2.4e-3)
    assert optimizer["lr"]["warmup"] / s.train_cfg.max_iters == 40 / 800
    lower = settings("paper/web_mae_5b").optim_wrapper.optimizer
    assert (lower["lr"]["start"], lower["lr"]["warmup"]) == (1.6e-3, 80_000)
    assert lower["betas"] == optimizer["betas"]
    # MAE's decoder has 512 channels in 8 blocks; with the maps from the encoder and to the pixels.
    model = build_on_meta(s.model)
    decoder = 8 * (12 * 512**2 + 13 * 512) + 2 * 512
    embed, mask, pixels = 1024 * 512 + 512, 512, 512 * 768 + 768
    assert size(model.spaces["decoder"]) == decoder + embed + mask
    assert size(model.objectives["mae"]) == pixels


# Of the released models, at 518 px, in timm's model cards.
@pytest.mark.parametrize(
    "arch, millions", [("S", 22.06), ("B", 86.58), ("L", 304.37), ("g-dinov2", 1136.48)]
)
def test_dinov2_has_the_published_sizes(arch, millions):
    options = [f"model.towers.image.{key}" for key in (f"arch={arch}", "input_size=518")]
    if arch != "g-dinov2":
        options.append("model.towers.image.ffn=mlp")
    tower = build_on_meta(settings("paper/dinov2_vit_g14", *options).model).towers["image"]
    assert size(tower) - tower.mask_token.numel() == pytest.approx(millions * 1e6, rel=2e-4)


def rates(name):
    optim = settings(f"paper/{name}").optim_wrapper
    lr = optim.optimizer["lr"]
    return lr["start"], lr["warmup"], optim.optimizer["weight_decay"]["end"]


def test_dino_is_trained_as_published():
    assert rates("dino_vit_s16") == pytest.approx((2e-3, 10 * 1251, 0.4))
    s = settings("paper/dino_vit_s16")
    assert s.train_cfg.max_iters == 800 * 1251
    assert s.optim_wrapper.groups["last_layer"].freeze == 1251


def test_dinov2_is_trained_as_published():
    assert rates("dinov2_vit_l16") == pytest.approx((5.657e-3, 12_500, 0.4), rel=1e-4)
    assert rates("dinov2_vit_g14") == pytest.approx((3.464e-4, 100_000, 0.2), rel=1e-4)
    short, giant = (settings(f"paper/dinov2_vit_{name}") for name in ("l16", "g14"))
    assert (short.train_cfg.max_iters, giant.train_cfg.max_iters) == (125_000, 625_000)
    assert (short.optim_wrapper.layer_decay, giant.optim_wrapper.layer_decay) == (0.9, 1.0)
    # One head for both objectives, or two of different bottlenecks; the length is learned.
    assert set(build_on_meta(short.model).spaces) == {"proto", "proto_ema"}
    spaces = build_on_meta(giant.model).spaces
    for name, bottleneck in (("proto", 384), ("patches", 256)):
        assert spaces[name].last_layer.weight.shape == (131_072, bottleneck)
        assert spaces[name].last_layer.gain.requires_grad


@pytest.mark.parametrize("name", ["dinov2_vit_g14", "dinov2_vit_l16", "web_dino_7b_518"])
def test_blur_is_as_trained(name):
    views = settings(f"paper/{name}").train_dataloader.views
    blur = {
        view: [step.get("prob") for step in views[view] if step["type"] == "GaussianBlur"]
        for view in ("g1", "g2", "l1", "l8")
    }
    assert blur == {"g1": [], "g2": [0.9], "l1": [0.5], "l8": [0.5]}


WEB_DINO = [name for name in PAPER if name.startswith("web_dino")]


@pytest.mark.parametrize("name", WEB_DINO)
def test_web_dino_is_the_recipe_of_dinov2s_giant(name):
    giant, s = settings("paper/dinov2_vit_g14"), settings(f"paper/{name}")
    assert s.train_dataloader.views == giant.train_dataloader.views
    assert (
        s.optim_wrapper.optimizer["weight_decay"] == giant.optim_wrapper.optimizer["weight_decay"]
    )
    if name.endswith(("378", "518")):
        assert rates(name) == (1.41e-5, 3072, 0.2)
        assert (s.train_dataloader.batch_size, s.train_cfg.max_iters) == (2048, 20_000)
        assert s.model["towers"]["image"]["input_size"] == int(name[-3:]) and s.load_from
        return
    assert s.optim_wrapper == giant.optim_wrapper
    assert s.model["objectives"] == giant.model["objectives"]
    images = s.train_cfg.max_iters * s.train_dataloader.batch_size
    assert images == pytest.approx(2e9, rel=1e-5)


# The filtered ones are the same models on other images.
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in WEB_DINO if not n.endswith(("light", "heavy"))])
def test_web_dino_takes_a_step(name):
    few = "count=32", "hidden=16", "bottleneck=8"
    heads = [f"model.spaces.{space}.{o}" for space in ("proto", "patches") for o in few]
    tower = [f"model.towers.image.{o}" for o in ("depth=2", "input_size=28")]
    model = Pretrainer(**settings(f"paper/{name}", *heads, *tower).model)
    before = model.towers["image_ema"].module.norm.bias.clone()
    locals_ = {f"l{i}": 14 for i in range(1, 9)}
    rows = inputs(model, Case({}, rows=2, sizes=locals_))
    rows = {name: v.float() if v.is_floating_point() else v for name, v in rows.items()}
    losses, _ = model(rows)
    total = sum(losses.values())
    total.backward()
    assert total.isfinite() and set(losses) == {"dino.loss", "ibot.loss", "koleo.loss"}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter -= 1e-3 * parameter.grad
                assert parameter.isfinite().all()
    model.after_step(Progress(1, total=10))
    assert not torch.equal(before, model.towers["image_ema"].module.norm.bias)


def test_the_released_code_has_what_it_says():
    model = dry_run(settings("paper/declip_vit_b32_yfcc15m_code").model)
    joint = model.spaces["joint"]
    assert joint.project["text"].bias is not None and joint.project["image"].bias is None
    assert not model.towers["image"].patch_embed.proj.weight.requires_grad
    assert {name for name, o in model.objectives.items() if o.rank_local} == {"simsiam", "nn_queue"}
    weights = {name: weight(0, 1) for name, weight in model.weights.items()}
    assert weights == {"multi_view": 0.4, "simsiam": 0.2, "mlm": 0.2, "nn_queue": 0.2}
    assert model.needed_inputs() == {"v1", "v2", "text_mlm", "text_aug"}


def test_sgd_trains_the_image_tower_of_the_88m_runs():
    s = settings("paper/declip_regnety_64gf_88m")
    rest, image = split(s.optim_wrapper, dry_run(s.model))
    assert (rest.cfg["type"], image.cfg["type"]) == ("AdamW", "SGD")
    assert all(name.startswith("towers.image.") for name in image.parameters)
    assert any(name.startswith("towers.text.") for name in rest.parameters)


@pytest.mark.parametrize("name", PAPER)
def test_data_are_pointed_to_by_two_options_or_one(name, tmp_path):
    options = [f"train_dataloader.dataset.{key}={tmp_path / key}" for key in ("root", "file")]
    if settings(f"paper/{name}").data_root is not None:  # images without captions
        options = [f"data_root={tmp_path / 'root'}"]
    s = settings(f"paper/{name}", *options)
    assert s.train_dataloader.dataset["root"] == str(tmp_path / "root")
    assert "data/" not in str(s.evaluation)


@pytest.mark.parametrize("name", PAPER)
def test_its_first_lines_say_how_to_run_it(name):
    text = (CONFIGS / "paper" / f"{name}.py").read_text()
    command, _, _ = text.partition("_base_ =")
    assert f"tools/dist_train.sh configs/paper/{name}.py " in command
    assert "data" in command.lower() and "publish" in command.lower()
