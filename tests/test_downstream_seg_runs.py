"""mmsegmentation's Runner with our towers: on composed scenes, on two ranks, and every recipe."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from .adapters import needs
from .test_downstream_cls import store

pytestmark = [needs("mmseg"), pytest.mark.slow]

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools/downstream.py"
CONFIGS = ROOT / "configs/downstream/mmseg"
# Importing the library takes longer than most runs: they share a process.
ALL = f"""
import json, runpy, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
for argv in json.loads(sys.argv[1]):
    sys.argv[1:] = argv
    runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
ENV = os.environ | {"WEBSSL_TRACEBACK": "1", "OMP_NUM_THREADS": "1"}
VIT = dict(type="ViT", patch_size=8, width=128, depth=6, heads=4, input_size=48)


def arguments(name, folder, iterations, *options, start=None):
    """Arguments of the script for a run of few iterations, with one validation behind them."""
    sizes = [f"train_cfg.max_iters={iterations}", f"train_cfg.val_interval={iterations}"]
    init = f"checkpoint={start}" if start else "None"
    weights = f"model.backbone.init_cfg{'.' if start else '='}{init}"
    # One process has one visualizer of a name, and it writes where the first run does.
    log = ["default_hooks.logger.interval=1", f"visualizer.name={folder.name}-{name}"]
    config = str(CONFIGS / f"{name}.py")
    work = ["--work-dir", str(folder / name), "--cfg-options"]
    return [config, *work, weights, *sizes, *log, *options]


def run(folder, *argvs):
    command = [sys.executable, "-c", ALL, json.dumps(argvs)]
    done = subprocess.run(
        command, cwd=folder, env=ENV, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def logged(work):
    """What the run of a work dir wrote, a dict for each line."""
    (file,) = work.glob("*/vis_data/scalars.json")
    return [json.loads(line) for line in file.read_text().splitlines()]


def scenes(count=8):
    folder = "emoji_scenes"
    return [f"{part}_dataloader.dataset.data_root={folder}" for part in ("train", "val")] + [
        f"{part}_dataloader.dataset.count={count}" for part in ("train", "val")
    ]


def test_a_frozen_tower_is_read_out_on_scenes(tmp_path):
    tower = store(tmp_path / "vit", VIT, shake=False)["image"]
    resnet = dict(type="CLIPResNet", width=16, input_size=32)
    store(tmp_path / "resnet", resnet, shake=False)
    small = [*scenes(), "train_dataloader.batch_size=4"]
    run(
        tmp_path,
        arguments("emoji_linear_vit", tmp_path, 12, *small, start=tmp_path / "vit"),
        arguments("emoji_linear_resnet", tmp_path, 2, *small, start=tmp_path / "resnet"),
        arguments("emoji_upernet_vit", tmp_path, 2, *small, start=tmp_path / "vit"),
    )
    work = tmp_path / "emoji_linear_vit"
    *steps, tested = logged(work)
    assert len(steps) == 12 and steps[-1]["loss"] < 0.9 * steps[0]["loss"]
    assert 0 < tested["mIoU"] < 100
    assert Image.open(work / "side_by_side.png").width > 300
    saved = torch.load(work / "iter_12.pth", weights_only=False)["state_dict"]
    for name, value in tower.state_dict().items():
        assert torch.equal(saved[f"backbone.tower.{name}"], value), "frozen, as it was stored"
    for name in ("emoji_linear_resnet", "emoji_upernet_vit"):
        *steps, tested = logged(tmp_path / name)
        assert all(np.isfinite(step["loss"]) for step in steps) and "mIoU" in tested
    trained = torch.load(tmp_path / "emoji_upernet_vit/iter_2.pth", weights_only=False)
    weight = "blocks.0.attn.qkv.weight"
    moved = trained["state_dict"][f"backbone.tower.{weight}"]
    assert not torch.equal(moved, tower.get_parameter(weight))


def test_two_ranks_train_as_one(tmp_path):
    size = "(96,96)"  # the whole scene, never mirrored: ranks draw differently
    same = [
        *scenes(),
        f"train_dataloader.dataset.pipeline.2.crop_size={size}",
        f"model.data_preprocessor.size={size}",
        *("optim_wrapper.optimizer.type=SGD", "optim_wrapper.optimizer.lr=0.1"),
        "train_dataloader.dataset.pipeline.3.prob=0.0",
    ]
    heads = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        batch = f"train_dataloader.batch_size={8 // ranks}"
        argv = arguments("emoji_linear_vit", folder, 3, *same, batch)
        ranked = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        launch, last = (ranked, ["--launcher", "pytorch"]) if ranks > 1 else ([], [])
        done = subprocess.run(
            [sys.executable, *launch, str(SCRIPT), *argv, *last],
            **dict(cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=1200),
        )
        assert done.returncode == 0, done.stderr[-4000:]
        saved = torch.load(folder / "emoji_linear_vit/iter_3.pth", weights_only=False)
        heads.append({n: v for n, v in saved["state_dict"].items() if n.startswith("decode")})
    assert heads[0]["decode_head.norm.bias"].abs().min() > 0, "it began at zero"
    for name, value in heads[0].items():
        torch.testing.assert_close(heads[1][name], value, rtol=1e-3, atol=1e-5)


@pytest.fixture
def published(tmp_path):
    """ADE20K and NYU Depth V2 in their published layout: few images, and small ones of ADE20K."""
    rng = np.random.default_rng(0)
    for split, short in (("training", "train"), ("validation", "val")):
        root = tmp_path / "data/ade/ADEChallengeData2016"
        for kind, shape, top, end in (
            ("images", (60, 90, 3), 256, "jpg"),
            ("annotations", (60, 90), 151, "png"),
        ):
            (root / kind / split).mkdir(parents=True)
            for i in range(2):
                pixels = Image.fromarray(rng.integers(top, size=shape, dtype=np.uint8))
                pixels.save(root / kind / split / f"ADE_{short}_{i + 1:08d}.{end}")
    for split, scene in (("train", "kitchen_0028b"), ("test", "bathroom")):
        root = tmp_path / "data/nyu"
        (root / scene).mkdir(parents=True)
        lines = []
        for i in range(2):
            names = f"/{scene}/rgb_{i:05d}.jpg", f"/{scene}/sync_depth_{i:05d}.png"
            pixels = rng.integers(256, size=(480, 640, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / names[0][1:])
            depth = rng.integers(9000, size=(480, 640)).astype(np.uint16)
            Image.fromarray(depth).save(root / names[1][1:])
            lines.append(" ".join([*names, "518.8579"]))
        (root / f"nyu_{split}.txt").write_text("\n".join(lines))
    return tmp_path


def test_recipes_of_papers_take_two_steps(published):
    """At their crops, layers, losses and tests; the tower has 12 narrow blocks."""
    tower = [f"model.backbone.tower.{k}={v}" for k, v in dict(width=24, depth=12, heads=3).items()]
    quick = [
        f"{part}_dataloader.{key}={value}"
        for part in ("train", "val", "test")
        for key, value in (("num_workers", 0), ("persistent_workers", False))
    ]
    head = "model.decode_head"
    four = f"{head}.in_channels=[24,24,24,24]"
    upernet = [four, f"{head}.channels=8", "model.neck.embed_dim=24"]
    upernet += ["model.auxiliary_head.in_channels=24", "model.auxiliary_head.channels=8"]
    widths = {
        "ade20k_linear_vit_b14": [f"{head}.in_channels=24"],
        "ade20k_ms_linear_vit_b14": [four],
        "ade20k_upernet_vit_b16": upernet,
        "nyu_linear_vit_b14": [f"{head}.in_channels=[48]"],
        "nyu_linear4_vit_b14": [f"{head}.in_channels=[48,48,48,48]"],
    }
    assert set(widths) == {path.stem for path in CONFIGS.glob("*.py") if "emoji" not in path.stem}
    runs = {
        name: arguments(name, published, 2, *tower, *quick, *options)
        for name, options in widths.items()
    }
    config, *rest = runs["ade20k_ms_linear_vit_b14"]
    weights = str(published / "ade20k_ms_linear_vit_b14/iter_2.pth")
    rest[1] = str(published / "tested")  # its work dir
    # Three times 640 pixels would take gigabytes; its five scales, in small.
    small = [
        f"tta_pipeline.1.transforms.0.{i}.scale=(9999,{side})"
        for i, side in enumerate((40, 53, 69, 91, 120))
    ]
    run(published, *runs.values(), [config, "--test", weights, "--tta", *rest, *small])
    for name in widths:
        *steps, tested = logged(published / name)
        assert len(steps) == 2 and all(np.isfinite(step["loss"]) for step in steps)
        assert tested["rmse" if "nyu" in name else "mIoU"] > 0
    (tested,) = (published / "tested").glob("*/*.json")
    assert "mIoU" in json.loads(tested.read_text())
