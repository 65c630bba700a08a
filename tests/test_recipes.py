"""The recipes in ``configs/``: each says how it is run, and has a laptop-sized sibling."""

from pathlib import Path

import pytest

from webssl_plugins.backbones._clip_bpe import CLIP_VOCABULARY
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.dry_run import build_on_meta
from webssl_toolbox.engine.settings import settings_from

CONFIGS = Path(__file__).parents[1] / "configs"
LAPTOP = sorted(path.stem for path in CONFIGS.glob("*_laptop.py"))
LOCALS = {f"l{i}" for i in range(1, 9)}
# What a method is: its objectives, and the views that its towers encode.
METHODS = {
    "slip_vit_s16": ({"CLIP", "SimCLR"}, {"v1", "v2", "v3", "text"}),
    "siglip_vit_s16": ({"SigLIP"}, {"v1", "text"}),
    "mae_vit_s16": ({"MAE"}, {"v1", "v1_keep"}),
    "mae_clip_vit_s16": ({"CLIP", "MAE"}, {"v1", "v1_keep", "text"}),
    "m3ae_vit_s16": ({"MAE", "MAEText"}, {"v1", "v1_keep", "text_mae"}),
    "simsiam_r50": ({"SimSiam"}, {"v1", "v2"}),
    "dino_vit_s16": ({"DINO"}, {"g1", "g2"} | LOCALS),
    "dinov2_vit_s14": ({"DINO", "IBOT", "KoLeo"}, {"g1", "g2", "g1_mask", "g2_mask"} | LOCALS),
}


def settings(name, *options):
    return settings_from(load_config(CONFIGS / f"{name}.py", options))


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.py")))
def test_its_first_lines_say_how_to_run_it(name):
    head, _, _ = (CONFIGS / f"{name}.py").read_text().partition("_base_ =")
    assert f"#   python tools/train.py configs/{name}.py\n" in head
    for word in ("Hardware:", "Data:", "Result"):
        assert word in head


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", ["", "_laptop"])
def test_a_method_is_its_objectives_and_views(method, size):
    s = settings(method + size)
    kinds, views = METHODS[method]
    assert {o["type"] for o in s.model["objectives"].values() if o} == kinds
    model = build_on_meta(s.model)
    few = {f"l{i}" for i in range(5, 9)} if size else set()  # local crops that a laptop leaves out
    assert model.needed_inputs() == views - few
    assert s.test_tower in model.towers


@pytest.mark.parametrize("name", LAPTOP)
def test_a_laptop_config_is_small(name):
    model = build_on_meta(settings(name).model)
    weights = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in weights) < 2e7
    # The rows of CLIP's whole vocabulary are counted apart: they cost a twentieth of a step.
    assert sum(p.numel() for p in weights if CLIP_VOCABULARY not in p.shape) < 5e6


def test_clip_beside_mae_reads_the_whole_view_or_the_kept_patches():
    def needs(*options):
        model = build_on_meta(settings("mae_clip_vit_s16", *options).model)
        return {need.keep for need in model.plan["image"]}

    assert needs() == {None, "v1_keep"}
    assert needs("model.objectives.clip.keep=v1_keep") == {"v1_keep"}


def test_evaluation_is_of_what_the_method_learns():
    evaluators = {
        name: {key for key, value in settings(name).evaluation.evaluators.items() if value}
        for name in METHODS
    }
    assert all({"knn", "knn_subgroups", "neighbours"} <= found for found in evaluators.values())
    with_text = {name for name, found in evaluators.items() if "zero_shot" in found}
    assert with_text == {"slip_vit_s16", "siglip_vit_s16", "mae_clip_vit_s16"}
    painting = {name for name, found in evaluators.items() if "reconstructions" in found}
    assert painting == {"mae_vit_s16", "mae_clip_vit_s16", "m3ae_vit_s16"}
