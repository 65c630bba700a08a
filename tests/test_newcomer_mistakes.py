"""What newcomers get wrong, as they type it, and the one sentence that must come back.

The sentence says what is wrong, where, and what to do. Each row runs in a folder of its own, with
``small.py`` (a config that trains in a second), ``run`` (what it has trained), images and captions
in every form of ``own_data``, and ``configs``.
"""

from __future__ import annotations

import logging
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch

from webssl_toolbox import dist
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.runner import Runner
from webssl_toolbox.pretrainer import Pretrainer

from . import cases
from .mistakes import (
    DATASET,
    IMAGE,
    OBJECTIVES,
    STEP,
    cut_off,
    data,
    full_disk,
    full_gpu,
    heir,
    installed,
    left_out,
    mine,
    no_images,
    old_checkpoint,
    option,
    patched,
    resume,
    row,
    train,
    web_pages,
    without,
)
from .own_data import write_own_data
from .test_plugins import install  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[1]
SMALL = f"""
model = dict(
    towers=dict(image={cases.VIT}, text={cases.TEXT}),
    spaces=dict(joint=dict(type="JointSpace", dim=8)),
    objectives=dict(clip=dict(type="CLIP")),
)
train_dataloader = dict(
    dataset=dict(type="ImageTextList", file="pairs.csv", root="images"),
    views=dict(
        v1=[dict(type="RandomResizedCrop"), dict(type="Normalize")],
        text=[dict(type="Caption"), dict(type="Tokenize")],
    ),
    batch_size=4,
    num_workers=0,
)
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3))
train_cfg = dict(max_iters=1)
test_view = [dict(type="ResizeCenterCrop"), dict(type="Normalize")]
"""

# -- the table -----------------------------------------------------------------------------------

OPTIM = "optim_wrapper"
PAIR = '{"image": "cat/0.jpg", "caption": "a cat"}'
BOX = '{"images": [{"id": 1, "file_name": "cat/0.jpg"}], "annotations": [{"bbox": [1, 2, 3, 4]}]}'
COCO = "coco/annotations/captions_train2017.json"
UNMASKED = {"clip": {"type": "CLIP"}, "mlm": {"type": "MLM", "text": "text"}}
QUEUE = {"nn": {"type": "NNQueue", "images": ("v1",), "texts": ("text",)}}
EXTRAS = {
    "timm": dict(type="Timm", name="resnet50"),
    "transformers": dict(type="TransformersImage", folder="dinov2"),
    "mmpretrain": dict(type="MMPretrain", backbone=dict(type="ResNet", depth=50)),
}
WANDB = SMALL + "vis_backends = dict(w=dict(type='WandbVisBackend'))\n"
LOAD = "import numpy, PIL.Image, webssl_toolbox\nmodel = webssl_toolbox.load('run')\n"
BUILD = "from webssl_toolbox.registry import MODELS\n"

CONFIGS = {
    "file misspelt": row("tools/train.py configs/clip_50.py", "configs/clip_50", "'clip_r50.py'"),
    "elsewhere": row("tools/print_config.py clip_r50.py", "mean 'webssl_toolbox::clip_r50.py'"),
    "shipped name misspelt": row("tools/train.py webssl_toolbox::clip_50.py", "'clip_r50.py'"),
    "option misspelt": train("--workdir run", "unrecognized arguments: --workdir run"),
    "spaces around =": train("--cfg-options seed = 5", "'seed'", "without spaces"),
    "path misspelt": option("model.tower.image", 4, "no model.tower", "did you mean 'towers'"),
    "key misspelt": heir("train_cfg = dict(max_itres=5)", "train_cfg.max_itres", "'max_iters'"),
    "type misspelt": option(f"{OBJECTIVES}.clip.type", "Clip", "'Clip'", "did you mean 'CLIP'"),
    "not a whole number": option("train_cfg.max_iters", "1e3", "max_iters", "a whole number"),
    "list instead of dict": heir("model = dict(objectives=[5])", OBJECTIVES, "a dict of named"),
    "None that removes nothing": heir(
        "model = dict(objectives=dict(clpi=None))",
        *("mine.py", "objectives.clpi = None removes nothing", "did you mean 'clip'"),
    ),
    "bracket not closed": heir("train_cfg = dict(", "mine.py, line 2", "never closed"),
    "name not defined": heir("train_cfg = dict(max_iters=n)", "mine.py, line 2", "'n' is not"),
    "YAML": mine("train_cfg:\n  max_iters: 5\n", "mine.py, line 1", "a config is Python"),
    "base elsewhere": mine("_base_ = ['clip_r50.py']", "mean 'webssl_toolbox::clip_r50.py'"),
    "no study": row("tools/study.py small.py", "no _study", "variants=", "metrics="),
}

DATA = {
    "no such folder": option(f"{DATASET}.root", "imgs", "imgs: no such folder", "must hold"),
    "wrong folder": option(f"{DATASET}.root", "coco", "coco/cat/0.jpg", "root must be the folder"),
    "images left behind": train("", "images/cat/0.jpg: no such", "root must be", given=no_images),
    "folder without images": option(
        DATASET, dict(type="ImageFolder", root="run"), "run: no image found", ".jpg, .jpeg, .png"
    ),
    "wrong column": option(f"{DATASET}.caption", "title", "'title'", "has 'image', 'caption'"),
    "unknown kind of list": data("ImageTextList", "a.parquet", "'.parquet'", "give format='csv'"),
    "TSV by the name of CSV": data(
        "ImageTextList", "a.csv", "a.csv", "format='tsv'", text="image\tcaption\ncat/0.jpg\ta cat\n"
    ),
    "no header": data(
        "ImageTextList", "a.csv", "no column 'image'", "'a cat'", "image=", text="0.jpg,a cat\n"
    ),
    "JSON array": data("ImageTextList", "a.json", "one object a line", "jq -c", text=f"[{PAIR}]"),
    "COCO as a list": data("ImageTextList", COCO, COCO, "use type='CocoCaptions'"),
    "COCO's boxes": data(
        "CocoCaptions", "a.json", "no 'caption' but 'bbox'", "take captions_*.json", text=BOX
    ),
    "images all broken": option(
        "train_dataloader.num_workers",
        1,
        *("16 samples in a row", ".jpg: not an image", "<html>", "check the dataset"),
        given=web_pages,
    ),
    "no captions": option(
        DATASET, dict(type="ImageFolder", root="images"), "has no caption", "tell the dataset"
    ),
    "batch larger than the data": option(
        "train_dataloader.batch_size", 64, "16 samples", "batch of 64", "lower train_dataloader"
    ),
    "fewer samples than ranks": option(
        "train_dataloader.batch_size",
        32,
        *("16 samples", "batch of 32", "start at most 16 ranks"),
        given=patched(dist, "world_size", lambda: 32),
    ),
    "list missing": option(f"{DATASET}.file", "pears.csv", "pears.csv: no such file", "must list"),
    "folder gone in the middle of a run": train(
        "--cfg-options train_cfg.max_iters=2",
        *("16 samples in a row", "images/", "No such file", "check the dataset and the disk"),
        given=patched(Pretrainer, "after_step", lambda *_: shutil.rmtree("images")),
    ),
    "view misspelt": option(f"{OBJECTIVES}.clip.image", "v11", "'v11'", "did you mean 'v1'"),
}

MODELS = {
    "patches do not fit": option(f"{IMAGE}.input_size", 20, "20 x 20", "patch_size=8", "multiple"),
    "heads do not divide": option(f"{IMAGE}.heads", 3, IMAGE, "width=16", "heads=3", "change one"),
    "tower missing": option("model.towers.text", None, "the tower 'text'", "model.towers lacks"),
    "space missing": option("model.spaces.joint", None, "the space 'joint'", "model.spaces lacks"),
    "no words are hidden": option(
        OBJECTIVES, UNMASKED, "'text.index'", "last step of train_dataloader.views.text"
    ),
    "parameters not used": option(
        OBJECTIVES, QUEUE, "no objective trains towers.text", "add an objective that trains it"
    ),
    "unknown precision": option("optim_wrapper.precision", "fp16", "'fp16'", "mean 'bf16'"),
    "optimizer not fused": option(
        "optim_wrapper.optimizer.type", "RMSprop", "RMSprop has no fused step", "use AdamW"
    ),
    "group misspelt": option(
        f"{OPTIM}.groups",
        {"patches": {"of": "towers.image.patch_embde", "lr_mult": 0.2}},
        *("groups.patches.of", "towers.image has no 'patch_embde'", "did you mean 'patch_embed'"),
    ),
    "group of what is not trained": option(
        f"{OPTIM}.groups",
        {"all": {"of": "towers"}, "image": {"of": "towers.image"}, "text": {"of": "towers.text"}},
        *("groups.all has nothing to train", "others of groups take them", "leave it out"),
    ),
    "module of another optimizer misspelt": option(
        f"{OPTIM}.parts",
        {"image": {"of": "image", "optimizer": {"type": "SGD"}}},
        *("parts.image.of: the model has no 'image'", "spaces, towers"),
    ),
    "layers not counted": option(
        f"{OPTIM}.layer_decay", 0.9, "layer_decay: towers.text", "as a ViT does", "leave it out"
    ),
    "clipping misspelt": option(f"{OPTIM}.clip_per", "tower", "'tower' is not", "model, module"),
    "wandb missing": row(
        "tools/train.py wandb.py",
        *("vis_backends.w", "pip install wandb"),
        files={"wandb.py": WANDB},
        given=without("wandb"),
    ),
} | {
    f"{name} missing": option(
        IMAGE, cfg, IMAGE, f"pip install 'webssl-toolbox[{name}]'", given=without(name)
    )
    for name, cfg in EXTRAS.items()
}

RUNS = {
    "a run is there": row(
        "tools/train.py small.py --work-dir run", "run holds a run already", "--resume"
    ),
    "resumed with another batch": resume(
        "--cfg-options train_dataloader.batch_size=2", "batch_size=4, not 2", "resume with that"
    ),
    "resumed with another model": resume(
        f"--cfg-options {IMAGE}.depth=3",
        *("12 missing (towers.image.blocks.2.", "the config that it was saved with"),
    ),
    "old checkpoint": resume(
        "", "run/checkpoints", "format 0", "'0.0.1'", "use that one", given=old_checkpoint
    ),
    "checkpoint cut off": row(
        f"tools/test.py small.py run/{STEP}",
        *("model.safetensors is damaged", "copy it again"),
        given=cut_off,
    ),
    "a pickle": row(
        "tools/test.py small.py a.pth", "a.pth is refused", "give the work", files={"a.pth": ""}
    ),
    "no such run": row("tools/test.py small.py rnu", "rnu is not a checkpoint", "give the work"),
    "start from a pickle": option(
        "load_from", "a.pth", "a.pth is refused", "give the work dir", files={"a.pth": ""}
    ),
    "start from nowhere": option(
        "load_from", "rnu", "rnu is not a checkpoint", "give the work dir"
    ),
    "start at another width": train(
        f"--cfg-options load_from=run {IMAGE}.width=32",
        *("load_from: towers.image.", "in this config", "the size that it was saved with"),
    ),
    "nothing to measure": row("tools/test.py small.py run", "small.py", "no evaluation.evaluators"),
    "work dir below a file": row(
        "tools/train.py small.py --work-dir small.py/new", "small.py/new: Not a", "permissions"
    ),
    "no space": train("", "not written to new/checkpoints", "the free space", given=full_disk),
    "no GPU": train(
        "--device cuda",
        *("no GPU was found", "leave --device out"),
        given=patched(torch.cuda, "is_available", lambda: False),
    ),
    "batch too large for the GPU": train(
        "",
        *("CUDA out of memory", "raise model.chunks", "lower train_dataloader.batch_size"),
        given=patched(Pretrainer, "forward", full_gpu),
    ),
    "batch not shared evenly": train(
        "", "global batch", "4 rows", "3 ranks", given=patched(dist, "world_size", lambda: 3)
    ),
}

PLUGINS = {
    "two of one name": row(
        "tools/plugins.py --load",
        *("'Barlow'", "dist-acme 1.2 and dist-bolt 1.2", "uninstall one"),
        given=installed("acme", "bolt", brings="Barlow"),
    ),
    "broken": option(
        f"{OBJECTIVES}.clip.type",
        "Acme",
        *("'Acme' is not known", "BROKEN", "dist-acme 1.2", "No module named 'drivers'"),
        given=installed("acme", code="import drivers\n"),
    ),
    "WEBSSL_PLUGINS misspelt": option(
        f"{OBJECTIVES}.clip.type", "Acme", "left out by WEBSSL_PLUGINS: acme", given=left_out
    ),
    "no name": row("tools/new_plugin.py my-loss", "'my-loss' cannot be", "lower-case letters"),
}

NOTEBOOKS = {
    "a pickle": row(f"{LOAD}webssl_toolbox.load('a.pth')", "a.pth", files={"a.pth": ""}),
    "no such device": row(f"{LOAD}webssl_toolbox.load('run', 'gpu')", "device='gpu'", "cuda"),
    "no such image": row(f"{LOAD}model.encode_image('b.jpg')", "b.jpg: cannot be read", "No such"),
    "an image of Pillow": row(
        f"{LOAD}model.encode_image(PIL.Image.open('photo.jpg'))",
        *("not JpegImageFile", "np.asarray(image.convert('RGB'))"),
    ),
    "an image of floats": row(
        f"{LOAD}model.encode_image(numpy.zeros((9, 9, 3)))", "a uint8 array", "not one of float64"
    ),
    "one class": row(f"{LOAD}model.zero_shot('photo.jpg', 'cat')", "class_names", "lists of str"),
    "argument misspelt": row(
        f"{BUILD}MODELS.build(dict(type='ViT', widht=8))", "widht", "did you mean 'width'"
    ),
    "no type": row(f"{BUILD}MODELS.build(dict(width=8))", "model must be a dict with a 'type'"),
}

TABLES = dict(config=CONFIGS, data=DATA, model=MODELS, run=RUNS, plugin=PLUGINS, notebook=NOTEBOOKS)
ROWS = {f"{kind}: {name}": entry for kind, rows in TABLES.items() for name, entry in rows.items()}


# -- the test ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    write_own_data(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "small.py").write_text(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Runner(load_config("small.py"), Path("run"), device="cpu").train()
    return folder


@pytest.fixture
def folder(home, tmp_path, monkeypatch):
    shutil.copytree(home, tmp_path / "home", symlinks=True)
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.delenv("WEBSSL_TRACEBACK", raising=False)
    logger = logging.getLogger("webssl_toolbox")
    level = logger.level
    yield
    logger.setLevel(level)  # the tools set it


@pytest.mark.filterwarnings("ignore:.*(skipped|WEBSSL_PLUGINS)")
@pytest.mark.parametrize("mistake", ROWS.values(), ids=ROWS)
def test_a_mistake_is_answered_by_a_sentence(mistake, folder, request, monkeypatch, capsys):
    for name, text in mistake.files.items():
        Path(name).write_text(text)
    mistake.given(request)
    command = mistake.typed.startswith("tools/")
    sentence = (run if command else execute)(mistake.typed, monkeypatch, capsys)
    assert len(sentence) < 400 and "\n" not in sentence
    for part in mistake.says:
        assert part in sentence


def run(command, monkeypatch, capsys):
    """Runs a tool in this process; returns its error."""
    tool, *arguments = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [tool, *arguments])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / tool), run_name="__main__")
    code = exit.value.code
    assert code not in (None, 0)
    text = capsys.readouterr().err + str(code)  # a message is for the interpreter to print
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if "error: " in line]
    return line.partition("error: ")[2]


def execute(code, monkeypatch, capsys):
    with pytest.raises((ValueError, OSError)) as raised:
        exec(code, {})
    return str(raised.value)
