"""Dense tasks in mmsegmentation: maps, heads, losses and data, each against plain numbers."""

import json
import math
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from webssl_plugins.transfer._depth import expected_depth, gradient_error, scale_invariant_error
from webssl_plugins.transfer._maps import center_pad
from webssl_toolbox.registry import DATASETS

from .adapters import ARCH, MM_RESNET, SIZES, TIMM_RESNET, each, local, model_folders, needs  # noqa: F401

VIT = dict(type="ViT", patch_size=8, width=16, depth=3, heads=2, input_size=16)
RESNET = dict(type="CLIPResNet", depths=(1, 1, 1, 1), width=8, input_size=32, heads=2)
OTHERS = {
    "timm": dict(
        type="Timm",
        name="vit_tiny_patch16_224",
        input_size=16,
        kwargs=dict(patch_size=8, embed_dim=16, depth=2, num_heads=2),
    ),
    "transformers": dict(type="TransformersImage", folder="dinov2"),
}


@pytest.fixture(scope="module")
def seg():
    """mmsegmentation's registries, filled. Its torchvision needs help beside a CPU torch."""
    from webssl_toolbox.compat import import_torchvision

    import_torchvision()
    for part in ("datasets", "engine", "evaluation", "models"):
        import_module(f"mmseg.{part}")
    for part in ("emoji", "linear", "depth", "decay", "picture"):
        import_module(f"webssl_plugins.transfer.mmseg_{part}")
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmseg"):  # as its Runner does
        yield import_module("mmseg.registry")


def backbone(seg, tower=VIT, **options):
    return seg.MODELS.build(dict(type="webssl_toolbox.Backbone", tower=tower, **options))


# -- maps ------------------------------------------------------------------------------------------


@needs("mmseg")
def test_maps_are_those_of_layers_on_the_padded_image(seg):
    model = backbone(seg, out_indices=[0, -1], class_token=True, frozen=True)
    images = torch.randn(2, 3, 30, 45)
    padded = torch.zeros(2, 3, 32, 48)
    padded[:, :, 1:31, 1:46] = images  # of an odd rest, the smaller half comes first
    assert torch.equal(center_pad(images, 8), padded) and center_pad(padded, 8) is padded
    maps = model(images)
    for found, layer in zip(maps, model.tower.layers(padded, [0, 2]), strict=True):
        assert found.shape == (2, 32, 4, 6) and not found.requires_grad
        assert torch.equal(found[:, :16], layer.map)
        assert (found[:, 16:] == layer.pooled[:, :, None, None]).all()
    model.train()
    assert not model.tower.training and not any(p.requires_grad for p in model.parameters())


@needs("mmseg")
def test_maps_before_the_last_norm(seg):
    torch.manual_seed(0)
    model = backbone(seg, out_indices=[-1], last_norm=False)
    seen = []
    model.tower.blocks[-1].register_forward_hook(lambda *args: seen.append(args[2]))
    (found,) = model(torch.randn(1, 3, 16, 16))
    assert torch.equal(found.flatten(2).mT.flatten(0, 1), seen[0][1:])  # behind the class token


@needs("mmseg")
@pytest.mark.parametrize("tower", [VIT, RESNET], ids=["vit", "resnet"])
def test_what_trains_gets_a_gradient(seg, tower):
    """A parameter without one would stall data parallelism: the attention pool behind the maps."""
    model = backbone(seg, tower, out_indices=[0, -1]).train()
    sum(each.square().sum() for each in model(torch.randn(2, 3, 64, 32))).backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}
    idle = {name.split(".")[1] for name, _ in model.named_parameters()} - {
        name.split(".")[1] for name in trained
    }
    assert idle == ({"attnpool"} if tower is RESNET else set())


@needs("mmseg")
@each(OTHERS)
def test_towers_of_other_libraries_give_maps(seg, tower, folders):
    (found,) = backbone(seg, local(tower, folders), out_indices=[0])(torch.randn(2, 3, 32, 16))
    assert found.shape == (2, 16, 4, 2)


UNMASKED = {
    "timm": dict(
        type="Timm",
        name="eva02_tiny_patch14_224",
        input_size=28,
        kwargs=dict(embed_dim=16, depth=2, num_heads=2),
    ),
    "transformers": dict(type="TransformersImage", folder="clip"),
    "mmpretrain": dict(
        type="MMPretrain",
        backbone=dict(type="VisionTransformer", arch=ARCH, patch_size=14),
        input_size=28,
    ),
}


@needs("mmseg")
@each(UNMASKED)
def test_images_are_padded_for_towers_that_mask_no_patches(seg, tower, tmp_path):
    vision = SIZES | dict(image_size=28, patch_size=14, model_type="clip_vision_model")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/config.json").write_text(json.dumps(vision))
    model = backbone(seg, local(tower, tmp_path), out_indices=[0], frozen=True)
    images = torch.randn(2, 3, 100, 45)
    (found,) = model(images)
    (layer,) = model.tower.layers(F.pad(images, (5, 6, 6, 6)), [0])
    assert found.shape == (2, 16, 8, 4) and torch.equal(found, layer.map)
    with pytest.raises(ValueError, match="has no patches"):
        model.tower.num_patches()


@needs("mmseg")
@each(dict(timm_resnet=TIMM_RESNET, mmpretrain_resnet=MM_RESNET))
def test_convnets_see_images_as_they_are(seg, tower):
    model = backbone(seg, tower, out_indices=[-1], frozen=True)
    images = torch.randn(2, 3, 100, 45)
    (layer,) = model.tower.layers(images, [-1])
    assert torch.equal(model(images)[0], layer.map)


@needs("mmseg")
def test_a_pyramid_has_strides_of_4_to_32_pixels(seg):
    tower = VIT | dict(patch_size=16, depth=4, input_size=64)
    neck = dict(type="Feature2Pyramid", embed_dim=16, norm_cfg=dict(type="BN"))
    maps = seg.MODELS.build(neck)(
        backbone(seg, tower, out_indices=range(4))(torch.randn(2, 3, 64, 64))
    )
    assert [64 // each.shape[2] for each in maps] == [4, 8, 16, 32]


@needs("mmseg")
def test_each_layer_learns_at_a_share_of_the_next(seg):
    from mmengine.optim import build_optim_wrapper

    model = nn.Module()
    model.backbone = backbone(seg, out_indices=[-1])
    model.decode_head = nn.Conv2d(16, 2, 1)
    optimizer = dict(type="AdamW", lr=0.1, weight_decay=0.05)
    config = dict(
        optimizer=optimizer, constructor="TowerLayerDecay", paramwise_cfg=dict(decay_rate=0.5)
    )
    wrapper = build_optim_wrapper(model, config)
    rates = {
        id(p): (group["lr"], group["weight_decay"])
        for group in wrapper.optimizer.param_groups
        for p in group["params"]
    }
    tower = model.backbone.tower
    for parameter, depth, decay in (
        (model.decode_head.weight, 0, 0.05),
        (model.decode_head.bias, 0, 0),
        (tower.norm.weight, 0, 0),
        (tower.blocks[2].attn.qkv.weight, 1, 0.05),
        (tower.blocks[0].attn.qkv.weight, 3, 0.05),
        (tower.patch_embed.proj.weight, 4, 0.05),
        (tower.pos_embed, 4, 0),
    ):
        assert rates[id(parameter)] == pytest.approx((0.1 * 0.5**depth, decay))
    assert len(rates) == len([p for p in model.parameters() if p.requires_grad])


# -- heads and losses ------------------------------------------------------------------------------


@needs("mmseg")
def test_a_linear_head_is_a_batch_norm_and_a_linear_map(seg):
    torch.manual_seed(0)
    layers = dict(in_channels=[3, 2], in_index=[0, 1], input_transform="resize_concat")
    head = seg.MODELS.build(dict(type="LinearHead", **layers, num_classes=4, dropout_ratio=0))
    maps = [torch.randn(2, 3, 4, 4), torch.randn(2, 2, 2, 2)]
    joined = torch.cat([maps[0], F.interpolate(maps[1], (4, 4), mode="bilinear")], 1)
    mean, var = joined.mean((0, 2, 3)), joined.var((0, 2, 3), correction=0)
    normed = (joined - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    weight, bias = head.conv_seg.weight[:, :, 0, 0], head.conv_seg.bias[:, None, None]
    wanted = torch.einsum("kc,bchw->bkhw", weight, normed) + bias
    torch.testing.assert_close(head.train()(maps), wanted, rtol=1e-4, atol=1e-6)


def test_depth_is_the_mean_over_bins():
    logits = torch.tensor([0.9, -5.0, 1.9], dtype=torch.float64).view(1, 3, 1, 1)
    bins = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    # Weights 1, 0.1 and 2.
    assert expected_depth(logits, bins).item() == pytest.approx((1 + 0.2 + 8) / 3.1)


@needs("mmseg")
def test_bins_may_be_enlarged_in_place_of_features(seg):
    torch.manual_seed(0)
    head = seg.MODELS.build(
        dict(type="LinearDepthHead", in_channels=[3, 3], in_index=[0, 1], bins=8)
    ).double()
    maps = [torch.randn(2, 3, 4, 5, dtype=torch.float64) for _ in range(2)]
    large = [F.interpolate(each, scale_factor=4, mode="bilinear") for each in maps]
    logits = head.conv_seg(torch.cat(large, 1))
    wanted = expected_depth(logits, torch.linspace(1e-3, 10, 8).double())
    torch.testing.assert_close(head(maps), wanted)
    assert wanted.shape == (2, 1, 16, 20) and head.out_channels == 1


def test_scale_invariant_error_by_hand():
    found = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    depth = torch.tensor([1.0, 1.0, 0.5, 0.0], dtype=torch.float64)  # the last is not known
    ratio = [math.log((a + 1e-3) / (b + 1e-3)) for a, b in ((1, 1), (2, 1), (4, 0.5))]
    mean = sum(ratio) / 3
    variance = sum((r - mean) ** 2 for r in ratio) / 2
    error = math.sqrt(variance + 0.15 * mean**2)
    assert scale_invariant_error(found, depth).item() == pytest.approx(error, rel=1e-12)
    first = scale_invariant_error(found, depth, scale_only=True)
    assert first.item() == pytest.approx(math.sqrt(0.15) * mean, rel=1e-12)
    nothing = scale_invariant_error(found.requires_grad_(), torch.zeros(4))
    nothing.backward()
    assert nothing == 0 and found.grad.abs().sum() == 0


def test_gradient_error_by_hand():
    rng = np.random.default_rng(0)
    found, depth = rng.uniform(0.5, 9, (2, 2, 1, 13, 16))
    depth[rng.random(depth.shape) < 0.2] = 0
    wanted = 0.0
    for stride in (1, 2, 4, 6):
        f, d = found[..., ::stride, ::stride], depth[..., ::stride, ::stride]
        known, total = int((d > 0).sum()), 0.0
        for b, _, y, x in np.ndindex(d.shape):
            for yy, xx in ((y + 2, x), (y, x + 2)):
                if yy < d.shape[2] and xx < d.shape[3] and d[b, 0, y, x] and d[b, 0, yy, xx]:
                    here, there = (
                        math.log((f[b, 0, i, j] + 1e-3) / (d[b, 0, i, j] + 1e-3))
                        for i, j in ((y, x), (yy, xx))
                    )
                    total += abs(here - there)
        wanted += total / known
    loss = gradient_error(torch.from_numpy(found), torch.from_numpy(depth))
    assert loss.item() == pytest.approx(wanted, rel=1e-12)


@needs("mmseg")
def test_the_first_steps_learn_the_scale_alone(seg):
    loss = seg.MODELS.build(dict(type="SigLoss", loss_weight=2.0, warmup=2)).train()
    found, depth = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 1.0])
    values = [loss(found, depth) for _ in range(3)]
    first, later = (scale_invariant_error(found, depth, only) for only in (True, False))
    assert values == [2 * first, 2 * first, 2 * later]
    assert loss.state_dict()["step"] == 3  # a run that is resumed goes on


@needs("mmseg")
def test_rmse_is_that_of_eigens_window(seg):
    """mmsegmentation's metric, by hand: the mean over images of the root of the mean square."""
    metric = seg.METRICS.build(
        dict(type="DepthMetric", min_depth_eval=1e-3, max_depth_eval=10.0, crop_type="nyu_crop")
    )
    rng = np.random.default_rng(0)
    roots = []
    for _ in range(2):
        found = rng.uniform(0.1, 9, (480, 640))
        depth = rng.uniform(0.1, 12, (480, 640))
        depth[rng.random(depth.shape) < 0.1] = 0
        error = (found - depth)[45:471, 41:601]
        inside = depth[45:471, 41:601]
        roots.append(np.sqrt((error[(inside > 1e-3) & (inside < 10)] ** 2).mean()))
        maps = dict(pred_depth_map=found, gt_depth_map=depth)
        metric.process(
            {}, [{key: dict(data=torch.from_numpy(value)[None]) for key, value in maps.items()}]
        )
    assert metric.compute_metrics(metric.results)["rmse"] == pytest.approx(np.mean(roots), rel=1e-9)


# -- data ------------------------------------------------------------------------------------------


@needs("mmseg")
def test_scenes_are_files_of_what_the_data_set_composes(seg, tmp_path):
    load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
    config = dict(type="EmojiScenes", split="noto-v1", count=3, data_root=str(tmp_path))
    scenes = seg.DATASETS.build(config | dict(pipeline=load))
    drawings = dict(type="Emoji", split="noto-v1", size=72, target="group")
    plain = DATASETS.create(
        dict(type="Scenes", drawings=drawings, count=3, size=scenes[0]["img"].shape[0]), "data"
    )
    assert len(scenes) == 3 and list(scenes.metainfo["classes"]) == plain.classes
    assert len(plain.classes) == 11 == len(set(map(tuple, scenes.metainfo["palette"])))
    plain.name = "noto-v1"
    for i in range(3):
        sample, item = plain.load(i, np.random.default_rng()), scenes[i]
        assert (item["img"][..., ::-1] == sample.image).all()
        assert (item["gt_seg_map"] == sample.label_map).all() and item["gt_seg_map"].max() > 0
    (folder,) = tmp_path.iterdir()
    before = sorted((file, file.stat().st_mtime_ns) for file in folder.rglob("*.png"))
    seg.DATASETS.build(config | dict(pipeline=load))  # reads them again, and writes nothing
    assert before == sorted((file, file.stat().st_mtime_ns) for file in folder.rglob("*.png"))


@needs("mmseg")
def test_nyu_is_read_from_its_lists(seg, tmp_path):
    (tmp_path / "kitchen").mkdir()
    image = np.arange(480 * 640 * 3, dtype=np.uint32).reshape(480, 640, 3).astype(np.uint8)
    depth = np.arange(480 * 640).reshape(480, 640) % 9000
    Image.fromarray(image).save(tmp_path / "kitchen/rgb_1.png")
    Image.fromarray(depth.astype(np.uint16)).save(tmp_path / "kitchen/depth_1.png")
    lines = ["/kitchen/rgb_1.png /kitchen/depth_1.png 518.8579", "/kitchen/rgb_2.png None 518.8579"]
    (tmp_path / "nyu_train.txt").write_text("\n".join(lines) + "\n")
    steps = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadDepthAnnotation", depth_rescale_factor=1e-3),
        dict(type="NYUCrop"),
    ]
    config = dict(type="NYUList", data_root=str(tmp_path), ann_file="nyu_train.txt", pipeline=steps)
    (item,) = seg.DATASETS.build(config)
    assert (item["img"][..., ::-1] == image[45:472, 43:608]).all()
    np.testing.assert_allclose(item["gt_depth_map"], depth[45:472, 43:608] / 1000, rtol=1e-6)
    assert item["img_shape"] == (427, 565)
    (tmp_path / "nyu_train.txt").write_text("/kitchen/rgb_1.png\n")
    with pytest.raises(ValueError, match=r"line 1: '/kitchen/rgb_1\.png' is not 'IMAGE DEPTH"):
        seg.DATASETS.build(config)


@needs("mmseg")
def test_colours_are_drawn_in_their_ranges(seg):
    image = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 2, 3))
    same = dict(prob=1.0, gamma=(2.0, 2.0), brightness=(0.5, 0.5), color=(0.8, 0.8))
    out = seg.TRANSFORMS.build(dict(type="DepthColor", **same))(dict(img=image))["img"]
    wanted = (255 * (image / 255) ** 2 * 0.5 * 0.8).round()
    assert np.abs(out - wanted).max() <= 1
    never = seg.TRANSFORMS.build(dict(type="DepthColor", prob=0.0))(dict(img=image))["img"]
    assert (never == image).all()


@needs("mmseg")
def test_a_picture_shows_image_truth_and_prediction(seg):
    from webssl_plugins.transfer.mmseg_picture import CELL, GAP, LINE, draw

    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
    truth, found = np.zeros((2, 16, 16), int)
    truth[:8], truth[8, 0], found[:, 8:] = 1, 255, 2
    palette = [(255, 255, 255), (10, 20, 30), (200, 0, 0), (0, 99, 0)]
    picture = np.asarray(draw([(image, truth, found)], ["ground", "a", "b", "c"], palette))
    step, top = CELL // 16, LINE + GAP
    cells = [
        picture[top : top + CELL : step, left : left + CELL : step]
        for left in (GAP + i * (CELL + GAP) for i in range(3))
    ]
    assert (cells[0] == image).all()
    table = np.array([*palette, *([(0, 0, 0)] * 252)])
    assert (cells[1] == table[truth]).all() and (cells[2] == table[found]).all()
    shown = {tuple(colour) for colour in picture[top + CELL + GAP :].reshape(-1, 3)}
    assert {(10, 20, 30), (200, 0, 0)} <= shown and (0, 99, 0) not in shown, "what occurs"
