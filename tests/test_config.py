"""A typo is an error, found before any data is read and told with the nearest valid name."""

import copy

import numpy as np
import pytest
import torch

from tests import cases
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.runner import Runner
from webssl_toolbox.engine.settings import settings_from
from webssl_toolbox.registry import DATASETS, EVALUATORS, HOOKS

torch.set_num_threads(1)


class Untouchable:
    """A dataset that fails as soon as anyone asks it for data."""

    classes = ("a", "b")
    synonyms = {}

    def __init__(self, size: int = 8, name: str | None = None) -> None:
        self.size = size

    def __len__(self):
        raise AssertionError("the data was touched")

    def load(self, index, rng):
        raise AssertionError("the data was read")

    prepare = __len__


class Beeper:
    def __init__(self, loud: bool = False) -> None:
        self.loud = loud


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(DATASETS.module_dict, "Untouchable", Untouchable)
    monkeypatch.setitem(HOOKS.module_dict, "Beeper", Beeper)
    assert "KNN" in EVALUATORS


def step(kind, **arguments):
    return dict(type=kind, **arguments)


VIEW = [step("RandomResizedCrop", size=16), step("Normalize")]
TEXT = [step("Caption"), step("Tokenize")]


def valid():
    data = step("Untouchable")
    return copy.deepcopy(
        dict(
            model=dict(cases.DECLIP.model),
            train_dataloader=dict(
                dataset=data,
                batch_size=4,
                num_workers=0,
                views=dict(
                    v1=VIEW, v2=VIEW, text=TEXT, text_aug=TEXT, text_mlm=[*TEXT, step("MaskTokens")]
                ),
            ),
            optim_wrapper=dict(optimizer=step("AdamW", lr=step("cosine", start=1e-3))),
            train_cfg=dict(max_iters=2),
            test_view=[step("ResizeCenterCrop", size=32), step("Normalize")],
            evaluation=dict(
                evaluators=dict(
                    knn=step("KNN", train=data, splits=dict(test=data), k=1),
                    zero_shot=step("ZeroShot", splits=dict(test=data)),
                )
            ),
            hooks=dict(beeper=step("Beeper")),
            vis_backends=dict(board=step("TensorboardVisBackend")),
        )
    )


GONE = object()


def put(cfg, path, value):
    *parents, last = path.split("/")
    for key in parents:
        cfg = cfg[int(key) if isinstance(cfg, list) else key]
    if value is GONE:
        del cfg[last]
    else:
        cfg[int(last) if isinstance(cfg, list) else last] = value


def test_the_config_that_the_tables_damage_is_valid(tmp_path):
    Runner(valid(), tmp_path, device="cpu")


CLIP = "model/objectives/clip"
# path, value, and what the message holds: the key as the user wrote it, and the nearest valid one.
MISTAKES = [
    # names of keys, in every section
    ("modle", {}, ["modle", "'model'"]),
    ("custom_imports", dict(imports=["os"]), ["unknown config key custom_imports"]),
    ("model/tower", {}, ["model.tower", "'towers'"]),
    ("train_dataloader/batchsize", 4, ["train_dataloader.batchsize", "'batch_size'"]),
    ("optim_wrapper/clip_grads", 1.0, ["optim_wrapper.clip_grads", "'clip_grad'"]),
    ("train_cfg/max_iter", 4, ["train_cfg.max_iter", "'max_iters'"]),
    ("evaluation/intervall", 4, ["evaluation.intervall", "'interval'"]),
    # types
    ("model/type", "Pretrainr", ["model.type", "'Pretrainer'"]),
    ("model", step("ViT"), ["model.type", "Pretrainer", "'ViT'"]),
    ("model/towers/image/type", "Vit", ["model.towers.image.type", "'ViT'"]),
    ("model/spaces/joint/type", "JointSpaces", ["model.spaces.joint.type", "'JointSpace'"]),
    (f"{CLIP}/type", "CLP", ["model.objectives.clip.type", "'CLIP'"]),
    (f"{CLIP}/type", GONE, ["model.objectives.clip", "'type'"]),
    ("train_dataloader/dataset/type", "Emojis", ["train_dataloader.dataset.type", "'Emoji'"]),
    ("train_dataloader/views/v1/1/type", "Normalise", ["views.v1[1].type", "'Normalize'"]),
    ("test_view/0/type", "ResizeCentreCrop", ["test_view[0].type", "'ResizeCenterCrop'"]),
    ("evaluation/evaluators/knn/type", "kNN", ["evaluation.evaluators.knn.type", "'KNN'"]),
    ("hooks/beeper/type", "Beper", ["hooks.beeper.type", "'Beeper'"]),
    ("vis_backends/board/type", "TensorBoardVisBackend", ["board.type", "'TensorboardVisBackend'"]),
    ("optim_wrapper/optimizer/type", "AdmaW", ["optim_wrapper.optimizer.type", "'AdamW'"]),
    # arguments
    ("model/chunk", 2, ["model.chunk", "'chunks'"]),
    ("model/towers/image/depht", 2, ["model.towers.image.depht", "'depths'"]),
    ("model/spaces/joint/dims", 2, ["model.spaces.joint.dims", "'dim'"]),
    ("model/spaces/joint/dim", GONE, ["model.spaces.joint", "needs the argument 'dim'"]),
    (f"{CLIP}/wieght", 2, ["model.objectives.clip.wieght", "'weight'"]),
    ("model/objectives/simsiam/hiden", 2, ["model.objectives.simsiam.hiden", "'hidden'"]),
    ("train_dataloader/dataset/nam", 2, ["train_dataloader.dataset.nam", "'name'"]),
    ("train_dataloader/views/v1/0/sise", 2, ["views.v1[0].sise", "'size'"]),
    ("test_view/0/sise", 2, ["test_view[0].sise", "'size'"]),
    ("evaluation/evaluators/knn/neighbours", 2, ["evaluation.evaluators.knn.neighbours"]),
    ("evaluation/evaluators/knn/train/nme", "x", ["nme", "'name'"]),
    ("evaluation/evaluators/zero_shot/splits/test/type", "Untuchable", ["'Untouchable'"]),
    ("hooks/beeper/lound", True, ["hooks.beeper.lound", "'loud'"]),
    ("vis_backends/board/save_dri", "x", ["vis_backends.board.save_dri", "'save_dir'"]),
    ("model/spaces/joint/bias", ["txt"], ["model.spaces.joint.bias", "'text'"]),
    ("model/objectives/multi_view/skip", [("v1", "txt")], ["multi_view", "('v1', 'txt')"]),
    ("model/objectives/simsiam", step("SimSiam", normalize=False), ["simsiam", "give the space"]),
    ("optim_wrapper/optimizer/fused", False, ["optim_wrapper.optimizer.fused", "leave it out"]),
    ("optim_wrapper/optimizer/beta", (0.9, 0.98), ["optim_wrapper.optimizer.beta", "'betas'"]),
    # references from one section to another
    (f"{CLIP}/space", "jont", ["'jont'", "'joint'"]),
    (f"{CLIP}/image", "v3", ["the view 'v3'", "'v"]),
    (f"{CLIP}/keep", "v1_kep", ["'v1_kep'"]),
    ("model/towers/text", GONE, ["the tower 'text'"]),
    ("train_dataloader/views/text_aug", GONE, ["the view 'text_aug'", "'text'"]),
    ("train_dataloader/views/text_aug", None, ["the view 'text_aug'", "'text'"]),
    # schedules
    (f"{CLIP}/weight", step("cosin", start=1), ["model.objectives.clip.weight", "'cosine'"]),
    (f"{CLIP}/weight", step("cosine", strat=1), ["clip.weight.strat", "'start'"]),
    (f"{CLIP}/weight", step("cosine"), ["model.objectives.clip.weight", "'start'"]),
    (f"{CLIP}/weight", step("cosine", start="1"), ["clip.weight.start", "a number", "'1'"]),
    (f"{CLIP}/weight", step(["cosine"]), ["model.objectives.clip.weight"]),
    (f"{CLIP}/weight", "1.0", ["model.objectives.clip.weight", "'1.0'"]),
    ("optim_wrapper/optimizer/lr/warm_up", 2, ["optim_wrapper.optimizer.lr.warm_up", "'warmup'"]),
    ("optim_wrapper/optimizer/lr", "1e-3", ["optim_wrapper.optimizer.lr", "'1e-3'"]),
    # values of another type
    ("model", [], ["model must be a dict"]),
    ("model/towers", [], ["model.towers must be a dict"]),
    ("model/towers/image", "ViT", ["model.towers.image must be a dict", "'ViT'"]),
    ("model/towers/image/width", "64", ["model.towers.image.width", "whole number", "'64'"]),
    ("model/spaces/joint/dim", 8.5, ["model.spaces.joint.dim", "whole number", "8.5"]),
    ("model/objectives/mlm", "none", ["model.objectives.mlm must be a dict", "'none'"]),
    ("model/objectives/simsiam/dim", None, ["model.objectives.simsiam.dim", "whole number"]),
    ("model/objectives/simsiam/dim", True, ["model.objectives.simsiam.dim", "whole number"]),
    ("train_dataloader", None, ["train_dataloader must be a dict", "None"]),
    ("train_dataloader/dataset", "Emoji", ["train_dataloader.dataset must be a dict"]),
    ("train_dataloader/views", [], ["train_dataloader.views must be a dict"]),
    ("train_dataloader/views/v1", VIEW[0], ["train_dataloader.views.v1 must be a list"]),
    ("train_dataloader/views/v1/0", "Normalize", ["views.v1[0] must be a dict"]),
    ("train_dataloader/batch_size", "256", ["train_dataloader.batch_size", "whole number"]),
    ("train_dataloader/batch_size", 0, ["train_dataloader.batch_size", "at least 1"]),
    ("train_dataloader/batch_size", GONE, ["the config lacks train_dataloader.batch_size"]),
    ("train_dataloader/num_workers", -1, ["train_dataloader.num_workers", "at least 0"]),
    ("train_cfg/max_iters", -1, ["train_cfg.max_iters", "at least 1", "-1"]),
    ("train_cfg/max_iters", 1e3, ["train_cfg.max_iters", "whole number"]),
    ("train_cfg/keep_checkpoints", 0, ["train_cfg.keep_checkpoints", "at least 1"]),
    ("optim_wrapper/clip_grad", "1", ["optim_wrapper.clip_grad", "a number or None"]),
    ("optim_wrapper/precision", "fp16", ["optim_wrapper.precision", "'fp16'", "bf16"]),
    ("optim_wrapper/optimizer", [], ["optim_wrapper.optimizer must be a dict"]),
    ("test_view", VIEW[0], ["test_view must be a list"]),
    ("evaluation/before", "no", ["evaluation.before", "True or False"]),
    ("evaluation/evaluators", [], ["evaluation.evaluators must be a dict"]),
    ("hooks", [step("Beeper")], ["hooks must be a dict"]),
    ("seed", "0", ["seed must be a whole number"]),
    # values that only the class itself can judge
    ("model/towers/image/depths", 3, ["model.towers.image.depths must be a list or None"]),
    ("model/towers/image/depths", ["x"] * 4, ["model.towers.image: CLIPResNet cannot be built"]),
    ("model/towers/text/width", -1, ["model.towers.text: TextTransformer cannot be built"]),
    ("model/spaces/joint/dim", -1, ["model: Pretrainer cannot be built", "-1"]),
    ("model/towers/text", step("EMA", of="towers.image", momentum="x"), ["momentum", "'x'"]),
    ("model/towers/text", step("EMA", of="image"), ["of='image'", "towers.image"]),
    ("model/towers/text", step("EMA", of="towers.imgae"), ["'towers.image'"]),
    ("model/towers/text", step("EMA", of="towers.text"), ["text"]),
    ("evaluation/evaluators/knn/splits", "x", ["evaluators.knn.splits must be a dict"]),
]


@pytest.mark.parametrize(("path", "value", "words"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_refused_before_data_is_read(path, value, words, tmp_path):
    cfg = valid()
    put(cfg, path, value)
    with pytest.raises(ValueError) as caught:
        Runner(cfg, tmp_path / "run", device="cpu")
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "a refused config left a work dir"


def test_a_hundred_random_typos_are_refused():
    """Swaps two letters of any key or type that stands anywhere in the checked sections."""
    rng = np.random.default_rng(0)
    places = list(_places(valid(), ()))
    for _ in range(100):
        cfg = valid()
        *parents, last = places[rng.integers(len(places))]
        node = cfg
        for key in parents:
            node = node[key]
        word = node[last] if last == "type" else last
        if len(word) < 2:
            continue
        at = int(rng.integers(len(word) - 1))
        typo = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        if typo == word:
            continue
        if last == "type":
            node[last] = typo
        else:
            node[typo] = node.pop(last)
        wrong = "known|lacks|takes no such|needs the argument|a schedule is"
        with pytest.raises(ValueError, match=wrong):
            settings_from(cfg)


def _places(node, path):
    """Paths of all keys that a class or a section defines (names of entries are free)."""
    if isinstance(node, list):
        for i, child in enumerate(node):
            yield from _places(child, (*path, i))
    elif isinstance(node, dict):
        names = ("towers", "spaces", "objectives", "views", "evaluators", "hooks", "vis_backends")
        deep = "splits" in path or "train" in path  # checked when built
        for key, child in node.items():
            if not (deep or (path and path[-1] in names)):
                yield (*path, key)
            yield from _places(child, (*path, key))


# -- files and overrides -------------------------------------------------------------------------


BASE = """
_helper = 3
model = dict(
    towers=dict(image=dict(type='ViT', layer_scale=None)),
    objectives=dict(simsiam=dict(type='SimSiam', space=None), clip=dict(type='CLIP')))
train_dataloader = dict(dataset=dict(type='Emoji', split='train'), batch_size=4,
    views=dict(v1=[dict(type='Normalize')], v2=[dict(type='Normalize')]))
optim_wrapper = dict(optimizer=dict(type='AdamW'))
train_cfg = dict(max_iters=2)
evaluation = dict(evaluators=dict(zero_shot=dict(type='ZeroShot', splits=dict(a=1, b=2))))
"""


@pytest.fixture
def child(tmp_path):
    (tmp_path / "base.py").write_text(BASE)

    def write(text):
        path = tmp_path / "child.py"
        path.write_text(f"_base_ = ['base.py']\n{text}\n")
        return path

    return write


OVERRIDES = [
    ("train_cfg.max_iters=7", ("train_cfg", "max_iters"), 7),
    ("train_cfg.log_interval=7", ("train_cfg", "log_interval"), 7),
    ("model.chunks=4", ("model", "chunks"), 4),
    ("model.objectives.clip=None", ("model", "objectives", "clip"), None),
    ("model.objectives.clip.weight=0.5", ("model", "objectives", "clip", "weight"), 0.5),
    (
        "train_dataloader.views.v1.0.type=Blur",
        ("train_dataloader", "views", "v1", 0, "type"),
        "Blur",
    ),
    ("train_dataloader.dataset.split=a=b", ("train_dataloader", "dataset", "split"), "a=b"),
    ("seed=3", ("seed",), 3),
]


@pytest.mark.parametrize(("option", "path", "value"), OVERRIDES, ids=[o[0] for o in OVERRIDES])
def test_an_override_arrives(child, option, path, value):
    node = load_config(child(""), [option])
    for key in path:
        node = node[key]
    assert node == value


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("train_cfg.max_iter=7", ["train_cfg.max_iter", "'max_iters'"]),
        ("train_cgf.max_iters=7", ["train_cgf", "'train_cfg'"]),
        ("train_cfg", ["key=value"]),
        ("sede=3", ["sede", "'seed'"]),
        ("model.objectives.simsaim=None", ["model.objectives.simsaim", "'simsiam'"]),
        ("model.objectives.simsaim.dim=8", ["model.objectives.simsaim", "'simsiam'"]),
        ("model.objectives.simsiam.dmi=8", ["model.objectives.simsiam.dmi", "'dim'"]),
        ("train_dataloader.views.v3=None", ["train_dataloader.views.v3"]),
        ("train_dataloader.views.v1.1.type=Blur", ["train_dataloader.views.v1.1", "0"]),
        ("train_dataloader.views.v1.x.type=Blur", ["train_dataloader.views.v1.x", "0"]),
        ("train_dataloader.dataset.split.x=1", ["train_dataloader.dataset.split.x"]),
        ("train_cfg.max_iters.x.y=1", ["train_cfg.max_iters.x"]),
        ("evaluation.evaluators.zeroshot=None", ["evaluation.evaluators.zeroshot", "'zero_shot'"]),
        ("evaluation.evaluators.zero_shot.splits.c=None", ["zero_shot.splits.c"]),
    ],
)
def test_an_override_of_nothing_is_refused(child, option, words):
    with pytest.raises(ValueError) as caught:
        settings_from(load_config(child(""), [option]))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = dict(objectives=dict(simsaim=None))", ["objectives.simsaim", "'simsiam'"]),
        ("model = dict(towers=dict(imgae=None))", ["model.towers.imgae", "'image'"]),
        ("train_dataloader = dict(views=dict(v3=None))", ["train_dataloader.views.v3"]),
        (
            "evaluation = dict(evaluators=dict(zeroshot=None))",
            ["evaluators.zeroshot", "'zero_shot'"],
        ),
        ("model = dict(", ["child.py", "line"]),
        ("model = dict(objectives=[1])\nx = model['none']", ["child.py", "KeyError"]),
        ("train_cfg = dict(max_iters=dict(a=1))", ["child.py", "max_iters"]),
    ],
)
def test_a_child_config_that_removes_or_says_nonsense_is_refused(child, text, words):
    with pytest.raises(ValueError) as caught:
        load_config(child(text))
    for word in words:
        assert word in str(caught.value)


def test_none_removes_an_entry_and_is_a_value_elsewhere(child):
    cfg = load_config(
        child(
            "model = dict(objectives=dict(clip=None))\nevaluation = dict(\n"
            "evaluators=dict(zero_shot=dict(splits=dict(a=None))))"
        )
    )
    assert cfg["model"]["objectives"]["clip"] is None
    assert cfg["model"]["objectives"]["simsiam"]["space"] is None  # no base: an argument's value
    assert cfg["evaluation"]["evaluators"]["zero_shot"]["splits"] == dict(a=None, b=2)


def test_dicts_in_arguments_are_free(child):
    path = child("model = dict(towers=dict(image=dict(kwargs=dict(norm_layer=None))))")
    cfg = load_config(path, ["model.towers.image.kwargs.drop_path_rate=0.1"])
    assert cfg["model"]["towers"]["image"]["kwargs"] == dict(norm_layer=None, drop_path_rate=0.1)


def test_a_missing_file_is_named_with_its_neighbours(child):
    path = child("")
    with pytest.raises(FileNotFoundError, match=r"base\.py, child\.py"):
        load_config(path.with_name("nothing.py"))
    path.write_text("_base_ = ['nowhere.py']")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.py"):
        load_config(path)


def test_helpers_with_an_underscore_are_free(child):
    cfg = load_config(child("_anything = 1"))
    cfg["model"]["objectives"]["simsiam"] = None
    cfg["evaluation"] = {}
    assert cfg["_anything"] == 1 and cfg["_helper"] == 3
    settings_from(cfg)


@pytest.mark.parametrize("path", ["configs/declip_r50_laptop.py"])
def test_shipped_configs_are_valid(path):
    settings_from(load_config(path))
