"""Every shipped config is valid, runs a step without numbers, and leaves no parameter untrained."""

from pathlib import Path

import pytest

from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.dry_run import dry_run
from webssl_toolbox.engine.parts import split
from webssl_toolbox.engine.settings import settings_from

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
def test_data_are_pointed_to_by_two_options(name, tmp_path):
    options = [f"train_dataloader.dataset.{key}={tmp_path / key}" for key in ("root", "file")]
    dataset = settings(f"paper/{name}", *options).train_dataloader.dataset
    assert dataset["root"] == str(tmp_path / "root")


@pytest.mark.parametrize("name", PAPER)
def test_its_first_lines_say_how_to_run_it(name):
    text = (CONFIGS / "paper" / f"{name}.py").read_text()
    command, _, _ = text.partition("_base_ =")
    assert f"tools/dist_train.sh configs/paper/{name}.py " in command
    assert "data" in command.lower() and "publish" in command.lower()
