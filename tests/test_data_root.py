"""Any folder of images from the command line: ``--cfg-options data_root=PHOTOS``."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from webssl_plugins.datasets.folder import ImageFolder
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.runner import Runner
from webssl_toolbox.engine.settings import settings_from

CONFIGS = Path(__file__).parents[1] / "configs"
IMAGE_ONLY = ["mae_vit_s16", "mae_vit_s16_laptop", "simsiam_r50", "simsiam_r50_laptop"]

torch.set_num_threads(1)


# -- variables of config files -----------------------------------------------------------------


@pytest.fixture
def child(tmp_path):
    """Writes a config that inherits one with variables, through another without."""
    (tmp_path / "base.py").write_text(
        "data_root = None\n_size = 4\ntrain_cfg = dict(max_iters=_size)\n"
        "train_dataloader = dict(dataset=data_root or 'emoji', size=2 * _size)\n"
    )
    (tmp_path / "middle.py").write_text("_base_ = 'base.py'\nwork_dir = _base_.data_root\n")

    def write(text=""):
        path = tmp_path / "child.py"
        path.write_text(f"_base_ = 'middle.py'\n{text}\n")
        return path

    return write


def test_without_the_option_variables_are_what_files_assign(child):
    cfg = load_config(child())
    assert cfg["train_dataloader"] == dict(dataset="emoji", size=8)


def test_what_files_derive_from_an_option_follows(child):
    cfg = load_config(child(), ["data_root=photos", "_size=8"])
    assert cfg["data_root"] == cfg["work_dir"] == "photos"
    assert cfg["train_dataloader"] == dict(dataset="photos", size=16)


def test_what_bases_derive_from_the_variable_of_an_heir_follows(child):
    path = child("data_root = 'pho' + 'tos'\n_size = 100")
    cfg = load_config(path)
    assert cfg["train_dataloader"] == dict(dataset="photos", size=8)  # helpers are a file's own
    assert cfg["work_dir"] == "photos"
    cfg = load_config(path, ["data_root=others"])
    assert cfg["train_dataloader"]["dataset"] == cfg["work_dir"] == "others"


def test_an_option_that_names_a_section_replaces_it(child):
    cfg = load_config(child("train_cfg = dict(log_interval=1)"), ["train_cfg={'max_iters': 9}"])
    assert cfg["train_cfg"] == dict(max_iters=9)
    cfg = load_config(child("train_cfg = dict(log_interval=1)"), ["train_cfg=None"])
    assert cfg["train_cfg"] is None


@pytest.mark.parametrize("option", ["data_root=photos", "_batchsize=8"])
def test_a_variable_that_no_file_assigns_is_refused(option):
    with pytest.raises(ValueError, match=f"declip_r50.py has no variable {option.split('=')[0]}"):
        load_config(CONFIGS / "declip_r50.py", [option])


# -- shipped configs ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGE_ONLY)
def test_every_image_only_config_reads_the_folder(name):
    path = CONFIGS / f"{name}.py"
    assert load_config(path)["train_dataloader"]["dataset"]["type"] == "Emoji"
    settings = settings_from(load_config(path, ["data_root=photos"]))
    assert settings.train_dataloader.dataset == dict(type="ImageFolder", root="photos")
    assert settings.train_dataloader.batch_size == 64
    assert settings.evaluation.evaluators and "Emoji" not in str(settings.evaluation)


@pytest.mark.parametrize("name", IMAGE_ONLY)
def test_the_learning_rate_follows_the_batch(name):
    def rate(*options):
        cfg = load_config(CONFIGS / f"{name}.py", options)
        return cfg["optim_wrapper"]["optimizer"]["lr"]["start"]

    assert rate("_batch_size=1024") == pytest.approx(4 * rate())
    assert rate("data_root=photos") == pytest.approx(rate() / 4)


def test_a_missing_folder_is_named(tmp_path):
    cfg = load_config(CONFIGS / "mae_vit_s16_laptop.py", [f"data_root={tmp_path / 'none'}"])
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        Runner(cfg, tmp_path / "run", device="cpu").train()


# -- a real folder -----------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """64 files of mixed sizes, modes and formats in nested folders; one is broken."""
    rng = np.random.default_rng(0)
    for i in range(64):
        height, width = rng.integers(20, 90, 2)
        mode, suffix = [("RGB", "jpg"), ("RGBA", "png"), ("L", "webp"), ("P", "BMP")][i % 4]
        path = tmp_path / "photos" / ("", "a", "a/deep er")[i % 3] / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
    broken = tmp_path / "photos/a/1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    return tmp_path / "photos"


def test_a_folder_with_a_broken_file_trains_mae_and_ends_with_pictures(photos, tmp_path):
    options = [f"data_root={photos}", "_batch_size=48", "train_cfg.max_iters=3"]
    options += ["train_dataloader.num_workers=0", "train_cfg.log_interval=1"]
    options += [f"model.towers.image.{key}" for key in ("width=32", "depth=1", "heads=2")]
    options += ["model.spaces.decoder={'type': 'MaskDecoder', 'dim': 32, 'depth': 1, 'heads': 2}"]
    options += ["evaluation.before=False"]
    cfg = load_config(CONFIGS / "mae_vit_s16_laptop.py", options)
    Runner(cfg, tmp_path / "run", device="cpu").train()
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    steps = [line for line in lines if "mae.loss" in line]
    assert len(steps) == 3 and all(0 < line["mae.loss"] < 3 for line in steps)
    assert any(line["unreadable"] > 0 for line in steps)
    drawn = {path.parent.name for path in (tmp_path / "run/pictures").rglob("*.png")}
    assert drawn == {"reconstructions", "neighbours"}


def test_a_limit_takes_evenly_spaced_images(photos):
    rng = np.random.default_rng(0)
    whole, some = ImageFolder(str(photos)), ImageFolder(str(photos), limit=16)
    assert (len(whole), len(some), len(ImageFolder(str(photos), limit=999))) == (64, 16, 64)
    assert some.load(3, rng).key == whole.load(12, rng).key
    with pytest.raises(ValueError, match="limit must be at least 1"):
        ImageFolder(str(photos), limit=0)
