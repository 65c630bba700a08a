"""tools/downstream.py: what it reads and does not run, and mmpretrain's Runner end to end."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from PIL import Image
from safetensors.torch import save_file

from .adapters import needs
from .poison import Evil
from .test_downstream_cls import store

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs/downstream/mmpretrain"
READER = SimpleNamespace(**runpy.run_path(str(ROOT / "tools/_mmengine_checkpoints.py")))

# -- reading -------------------------------------------------------------------------------------


class LooksUp:
    """Names an attribute of what may be named, to call it."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, "__init__")


def test_it_reads_what_the_runner_saves(tmp_path):
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    file = tmp_path / "iter_2.pth"
    saved = dict(
        meta=dict(iter=2, config="open('canary', 'w')"),
        state_dict=dict(weight=torch.ones(3)),
        message_hub=dict(log_scalars={"train/loss": history}, runtime_info=dict(x=np.float64(2))),
        optimizer=dict(state={}, param_groups=[dict(lr=0.1, params=[0])]),
    )
    torch.save(saved, file)
    read = READER.read(str(file))
    assert read["message_hub"]["log_scalars"]["train/loss"].mean(2) == 2
    assert torch.equal(read["state_dict"]["weight"], torch.ones(3))
    assert read["meta"] == dict(iter=2)  # mmengine would run the config
    save_file(dict(weight=torch.ones(3)), tmp_path / "model.safetensors")
    assert READER.read(str(tmp_path / "model.safetensors"))["weight"].sum() == 3


@pytest.mark.parametrize("evil", [Evil, LooksUp])
def test_it_refuses_what_could_run(evil, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict=evil()), "evil.pth")
    with pytest.raises(ValueError, match=r"evil.pth is refused: it names \S+, which may run code"):
        READER.read("evil.pth")
    assert not Path("canary").exists()
    Path("half.pth").write_bytes(Path("evil.pth").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"half\.pth is refused: it is damaged"):
        READER.read("half.pth")


def test_every_address_is_a_local_file(monkeypatch, tmp_path):
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    schemes = list(CheckpointLoader._schemes)
    assert "https://" in schemes
    READER.read_safely()
    for scheme in schemes:
        with pytest.raises(FileNotFoundError, match="none are downloaded"):
            CheckpointLoader.load_checkpoint(f"{scheme}{tmp_path}/missing.pth")


# -- end to end ----------------------------------------------------------------------------------


def downstream(config, folder, *words, **options):
    pairs = [f"{key.replace('__', '.')}={value}" for key, value in options.items()]
    script = (sys.executable, ROOT / "tools/downstream.py")
    done = subprocess.run(
        [*script, CONFIGS / config, "--work-dir", "run", *words, "--cfg-options", *pairs],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (top1,) = re.findall(r"accuracy/top1: (\S+)", done.stdout)
    return float(top1), done.stdout


TINY = dict(
    model__backbone__init_cfg__checkpoint="trained",
    train_dataloader__num_workers=0,
    train_dataloader__persistent_workers=False,
    val_dataloader__num_workers=0,
    val_dataloader__persistent_workers=False,
    test_dataloader__num_workers=0,
    test_dataloader__persistent_workers=False,
)


@pytest.mark.slow
@needs("mmpretrain")
def test_the_corpus_is_learned_tested_and_resumed(tmp_path):
    config = "emoji_linear_vit.py"
    store(tmp_path / "trained", SMALL, shake=False)
    few = TINY | dict(model__backbone__tower__depth=1, train_cfg__val_interval=24)
    few |= dict(default_hooks__checkpoint__interval=24, train_dataloader__batch_size=64)
    learned, _ = downstream(config, tmp_path, train_cfg__max_iters=24, **few)
    assert learned > 22  # the largest group has 19.2 %
    tested, _ = downstream(config, tmp_path, "--test", "run/iter_24.pth", **few)
    assert tested == learned
    assert Image.open(tmp_path / "run/predictions.png").size == (728, 458)
    few |= dict(train_cfg__val_interval=1, train_cfg__max_iters=25)
    _, said = downstream(config, tmp_path, "--resume", **few)
    assert "resumed epoch: 0, iter: 24" in said
    assert (tmp_path / "run/iter_25.pth").exists()


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A folder as ImageNet is published, its validation set sorted: 1,000 synsets."""
    root = tmp_path_factory.mktemp("imagenet")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for i in range(1000):
        synset = f"n{i:08d}"
        for name in (f"train/{synset}/{synset}_1", f"val/{synset}/ILSVRC2012_val_{i:08d}"):
            (root / name).parent.mkdir(parents=True)
            Image.fromarray(pixels).save(root / f"{name}.JPEG")
    return root


SMALL = dict(type="ViT", patch_size=8, width=128, depth=1, heads=4, input_size=48)
BASE = dict(type="ViT", arch="B", depth=1)
RESNET = dict(type="CLIPResNet", depths=(1, 1, 1, 1), width=64, pool="mean", input_size=224)


@pytest.mark.slow
@needs("mmpretrain")
@pytest.mark.parametrize(
    ("config", "tower"),
    [
        ("emoji_finetune_vit.py", SMALL),
        ("emoji_linear_resnet.py", RESNET | dict(width=16, input_size=32)),
        ("imagenet_linear_vit_b16.py", BASE),
        ("imagenet_finetune_vit_b16.py", BASE),
        ("imagenet_linear_r50.py", RESNET),
    ],
)
def test_recipes_take_two_steps(config, tower, imagenet, tmp_path):
    """Of less depth, with two images a step; all else is as they are."""
    store(tmp_path / "trained", tower, shake=False)
    options = TINY | dict(default_hooks__logger__interval=1, optim_wrapper__type="OptimWrapper")
    name = "depth" if tower["type"] == "ViT" else "depths"
    options[f"model__backbone__tower__{name}"] = str(tower[name]).replace(" ", "")
    for part in ("train", "val", "test"):
        options[f"{part}_dataloader__batch_size"] = 2
        options[f"{part}_dataloader__dataset__indices"] = 4
    if config.startswith("imagenet"):
        for part in ("train", "val", "test"):
            options[f"{part}_dataloader__dataset__data_root"] = imagenet
        options |= dict(train_cfg__max_epochs=1)
    else:
        options |= dict(train_cfg__max_iters=2, train_cfg__val_interval=2)
    _, said = downstream(config, tmp_path, **options)
    losses = [float(loss) for loss in re.findall(r"\(train\).* loss: (\S+)", said)]
    assert len(losses) == 2 and np.isfinite(losses).all()
