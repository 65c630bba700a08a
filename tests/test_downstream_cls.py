"""Towers as backbones of mmpretrain: what they give, what they start from, how they are trained."""

import logging
from contextlib import nullcontext
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from webssl_toolbox.ema import EMA
from webssl_toolbox.engine import checkpoint
from webssl_toolbox.registry import DATASETS
from webssl_toolbox.towers import encode_batch

from . import poison
from .adapters import ARCH, MM_RESNET, MM_VIT, build, needs

pytestmark = needs("mmpretrain")

VIT = dict(type="ViT", patch_size=8, width=16, depth=3, heads=2, input_size=16)
RESNET = dict(type="CLIPResNet", depths=(1, 1, 1, 1), width=8, pool="mean", input_size=32)
RATE = 0.5


@pytest.fixture(scope="module")
def mm():
    """mmpretrain's registries, filled. Its torchvision needs help beside a CPU torch."""
    from webssl_toolbox.compat import import_torchvision

    import_torchvision()
    for part in ("datasets", "engine", "models"):
        import_module(f"mmpretrain.{part}")
    return import_module("mmpretrain.registry")


def shaken(module, seed=1):
    """Gives every tensor values that no initialisation gives; variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return module


def store(folder, config, towers=None, test_tower="image", shake=True):
    """Writes a checkpoint of towers, by default of one, and returns them."""
    towers = towers or {"image": shaken(build(config)) if shake else build(config)}
    model = nn.ModuleDict({"towers": nn.ModuleDict(towers)})
    own = {name: config for name in towers}
    own |= {n: dict(type="EMA", of="towers.image") for n, t in towers.items() if type(t) is EMA}
    meta = dict(config=dict(model=dict(towers=own), test_view=[{}], test_tower=test_tower))
    checkpoint.save(folder / "checkpoints", 1, model, meta=meta)
    return {name: tower.eval() for name, tower in towers.items()}


def backbone(folder=None, tower=VIT, mm=None, start=(), **options):
    init = dict(type="Pretrained", checkpoint=str(folder)) | dict(start) if folder else None
    config = dict(type="webssl_toolbox.Backbone", tower=tower, init_cfg=init, **options)
    built = mm.MODELS.build(config)
    built.init_weights()
    return built


def images(size=16, rows=3):
    return torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(0))


# -- what it gives -------------------------------------------------------------------------------


def test_it_gives_what_the_tower_gives_that_is_evaluated(mm, tmp_path):
    online = shaken(build(VIT))
    average = EMA(of="towers.image")
    average.follow(online)
    towers = dict(image=online, image_ema=shaken(average, seed=2))
    store(tmp_path, VIT, towers, test_tower="image_ema")
    for start, tower in ((), average.module), (dict(tower="image"), online):
        model = backbone(tmp_path, mm=mm, start=start).eval()
        (features,) = model(images())
        assert torch.equal(features, encode_batch(tower.eval(), images()).pooled)


def test_positions_take_the_size_of_the_config(mm, tmp_path):
    tower = store(tmp_path, VIT)["image"]
    large = backbone(tmp_path, VIT | dict(input_size=32), mm).tower
    fitted = build(VIT | dict(input_size=32)).fit("pos_embed", tower.pos_embed.detach())
    assert torch.equal(large.pos_embed, fitted)


def test_patches_are_averaged_before_a_new_norm(mm, tmp_path):
    tower = store(tmp_path, VIT)["image"]
    model = backbone(tmp_path, mm=mm, pool_norm=True).eval()
    tower.norm = nn.Identity()
    means = encode_batch(tower, images()).tokens.mean(1)
    (features,) = model(images())
    torch.testing.assert_close(features, nn.functional.layer_norm(means, [16], eps=1e-6))
    features.sum().backward()
    assert model.pool_norm.weight.grad is not None


@pytest.mark.parametrize("tower", [VIT, RESNET], ids=["vit", "resnet"])
def test_a_frozen_tower_stays_as_it_is(mm, tower):
    model = backbone(tower=tower, mm=mm, frozen=True).train()
    before = deepcopy(model.state_dict())
    (features,) = model(images(32))
    assert not features.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    (moving,) = backbone(tower=tower, mm=mm).train()(images(32))
    assert moving.requires_grad


def test_another_way_to_pool_is_named(mm, tmp_path, caplog):
    store(tmp_path, VIT | dict(pool="mean", arch="S"))
    with caplog.at_level(logging.WARNING, "webssl_toolbox"):
        backbone(tmp_path, mm=mm)
    assert [r.getMessage().split(" was ")[1] for r in caplog.records] == [
        "trained with pool='mean', here it is 'cls'"
    ]


# -- what it starts from -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tower", "start", "match"),
    [
        (VIT, dict(tower="student"), "has no tower 'student'; it has image"),
        (VIT | dict(width=8), {}, r"does not fit ViT: size mismatch for \w+"),
        (VIT | dict(depth=4), {}, r"lacks 12 tensors of ViT, blocks\.3\."),
        (RESNET, {}, "tensors of CLIPResNet"),
        (VIT, dict(type="Constant"), "starts from type='Pretrained'"),
        (VIT, dict(checkpoint="nowhere"), "nowhere is not a checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused(mm, tmp_path, tower, start, match):
    store(tmp_path, VIT)
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        backbone(tmp_path, tower, mm, start)


def test_a_pickle_is_refused(mm, tmp_path):
    torch.save(build(VIT).state_dict(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match="a pickle may run code"):
        backbone(tmp_path / "model.pth", mm=mm)


@pytest.mark.parametrize("name", [n for n in poison.CHECKPOINTS if "optimizer" not in n])
def test_a_poisoned_checkpoint_runs_nothing(mm, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_module.py").write_text(poison.MODULE)
    store(Path("run"), VIT)
    artefact = poison.CHECKPOINTS[name]
    artefact.plant()
    broken = artefact.refused.keys() >= set(poison.EVERY)
    with pytest.raises((ValueError, OSError)) if broken else nullcontext():
        backbone("run", mm=mm)
    assert not Path("canary").exists()


@pytest.mark.parametrize("tower", [MM_RESNET, MM_VIT], ids=["resnet", "vit"])
def test_backbones_of_mmpretrain_start_from_our_towers(mm, tmp_path, tower):
    import webssl_plugins.transfer  # noqa: F401 - what custom_imports does

    ours = store(tmp_path, tower)["image"]
    start = dict(type="Pretrained", _scope_="webssl_toolbox", checkpoint=str(tmp_path))
    size = dict(img_size=16, out_type="cls_token") if tower is MM_VIT else {}
    theirs = mm.MODELS.build(tower["backbone"] | size | dict(init_cfg=start))
    theirs.init_weights()
    theirs.eval()
    *_, features = theirs(images(tower["input_size"]))
    features = features if features.dim() == 2 else features.mean((2, 3))
    expected = encode_batch(ours, images(tower["input_size"])).pooled
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="lacks"):
        deeper = dict(depth=34) if tower is MM_RESNET else dict(arch=ARCH | dict(num_layers=3))
        mm.MODELS.build(tower["backbone"] | size | deeper | dict(init_cfg=start)).init_weights()


def test_a_new_norm_of_mmpretrain_must_be_named(mm, tmp_path):
    """Its fine-tuning recipe of MAE norms what it has averaged, by a norm that no tower has."""
    ours = store(tmp_path, MM_VIT)["image"]
    start = dict(type="Pretrained", _scope_="webssl_toolbox", checkpoint=str(tmp_path))
    recipe = dict(img_size=16, out_type="avg_featmap", final_norm=False)
    with pytest.raises(ValueError, match=r"lacks 2 tensors of VisionTransformer, ln2\.weight"):
        mm.MODELS.build(MM_VIT["backbone"] | recipe | dict(init_cfg=start)).init_weights()
    start |= dict(fresh=["ln2"])
    theirs = mm.MODELS.build(MM_VIT["backbone"] | recipe | dict(init_cfg=start))
    theirs.init_weights()
    assert torch.equal(theirs.pos_embed, ours.model.pos_embed)


# -- how it is trained ---------------------------------------------------------------------------


def classifier(mm):
    head = dict(type="LinearClsHead", num_classes=4, in_channels=16)
    tower = dict(type="webssl_toolbox.Backbone", tower=VIT, pool_norm=True)
    return mm.MODELS.build(dict(type="ImageClassifier", backbone=tower, head=head))


def test_layers_are_those_of_mmpretrains_own_vit(mm):
    arch = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
    theirs = mm.MODELS.build(dict(type="VisionTransformer", arch=arch, patch_size=8, img_size=16))
    ours = classifier(mm).backbone
    for our, their in {
        "backbone.tower.patch_embed.proj.weight": "backbone.patch_embed.projection.weight",
        "backbone.tower.cls_token": "backbone.cls_token",
        "backbone.tower.pos_embed": "backbone.pos_embed",
        "backbone.tower.blocks.0.norm1.bias": "backbone.layers.0.ln1.bias",
        "backbone.tower.blocks.2.attn.qkv.weight": "backbone.layers.2.attn.qkv.weight",
        "backbone.tower.norm.weight": "backbone.ln1.weight",
        "backbone.pool_norm.weight": "backbone.ln2.weight",
        "head.fc.weight": "head.fc.weight",
    }.items():
        found = ours.get_layer_depth(our, "backbone.")
        assert found == theirs.get_layer_depth(their, "backbone."), our


def test_rates_and_decay_are_those_of_mae(mm):
    """By hand, from ``param_groups_lrd`` of MAE's code: the head has the full rate."""
    from mmpretrain.registry import OPTIM_WRAPPER_CONSTRUCTORS

    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type="LearningRateDecayOptimWrapperConstructor",
            optim_wrapper_cfg=dict(
                type="OptimWrapper", optimizer=dict(type="AdamW", lr=1.0, weight_decay=0.05)
            ),
            paramwise_cfg=dict(
                layer_decay_rate=RATE,
                flat_decay_mult=0.0,
                custom_keys={
                    ".cls_token": dict(decay_mult=0.0),
                    ".pos_embed": dict(decay_mult=0.0),
                },
            ),
        )
    )
    model = classifier(mm)
    groups = {g["param_name"]: g for g in constructor(model).optimizer.param_groups}
    assert groups.keys() == dict(model.named_parameters()).keys()
    for name, group in groups.items():
        if "blocks." in name:
            power = 3 - int(name.split("blocks.")[1][0])
        else:
            power = 0 if name.startswith(("head", "backbone.pool_norm")) else 4
        assert group["lr"] == RATE**power, name
        plain = group["params"][0].dim() == 1 or name.endswith(("cls_token", "pos_embed"))
        assert group["weight_decay"] == (0 if plain else 0.05), name


def test_a_tower_that_does_not_count_its_layers_says_so(mm):
    with pytest.raises(ValueError, match="CLIPResNet does not count its layers"):
        backbone(tower=RESNET, mm=mm).get_layer_depth("backbone.tower.conv1.weight", "backbone.")


# -- the embedded corpus -------------------------------------------------------------------------


def test_the_corpus_is_that_of_the_toolbox(mm):
    import webssl_plugins.transfer.mmpretrain_emoji  # noqa: F401 - what custom_imports does

    theirs = mm.DATASETS.build(dict(type="EmojiClassification", split="noto-v1", size=40))
    ours = DATASETS.create(dict(type="Emoji", split="noto-v1", size=40, target="group"), "dataset")
    samples = [ours.load(i, np.random.default_rng(0)) for i in range(len(ours))]
    samples = [sample for sample in samples if sample.label >= 0]
    assert len(theirs) == len(samples) < len(ours)
    found = [info["gt_label"] for info in theirs.load_data_list()]
    assert found == [sample.label for sample in samples]
    assert theirs.metainfo["classes"] == tuple(ours.classes)
    for i in (0, 500):
        rgba = samples[i].image.astype(float)
        white = rgba[..., :3] * rgba[..., 3:] / 255 + 255 - rgba[..., 3:]
        assert np.abs(theirs[i]["img"] - white).max() <= 0.5 + 1e-9
    with pytest.raises(ValueError, match="train-drawings"):
        mm.DATASETS.build(dict(type="EmojiClassification", split="train"))


def test_a_picture_says_what_is_right_and_what_is_wrong(mm):
    from webssl_plugins.transfer.mmpretrain_picture import CELL, GAP, LINE, draw

    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    page = np.asarray(draw([(red, 0, 0), (red, 0, 1)], ["cat", "dog"])).astype(int)
    for i, right in enumerate([True, False]):
        left = GAP + i * (CELL + GAP)
        assert (page[GAP : GAP + CELL, left : left + CELL] == (255, 0, 0)).all()
        text = page[GAP + CELL + LINE :, left : left + CELL]
        greener = text[..., 1] - text[..., 0]
        assert (greener.max() > 40) == right and (greener.min() < -40) != right
