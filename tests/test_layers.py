"""What chosen blocks and stages give: equal to each tower's own output, and to timm's."""

import pytest
import torch
from torch import nn

from webssl_plugins.backbones.vit import ViT
from webssl_toolbox.ema import EMA
from webssl_toolbox.registry import MODELS
from webssl_toolbox.towers import Tower

from .adapters import IMAGES, build, each, model_folders, needs, segment  # noqa: F401

TINY = dict(patch_size=4, width=24, depth=3, heads=3, input_size=16)
OWN = {
    "vit": dict(type="ViT", **TINY, registers=2),
    "vit_pre_norm": dict(type="ViT", **TINY, pre_norm=True, class_token=False, pool="mean"),
    "clip_resnet": dict(type="CLIPResNet", depths=(1, 2, 1, 1), width=8, input_size=32, heads=2),
    "regnet": dict(
        type="RegNetY", depths=(1, 1, 1, 2), widths=(8, 16, 16, 24), group_width=8, input_size=32
    ),
}


def shaken(tower):
    torch.manual_seed(0)
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.3)
    return tower.eval()


def check_last(tower, images):
    """The last layer is what the tower itself returns, however it is asked for."""
    (encoding,) = tower([segment(images)])
    first, last = tower.layers(images, [-2, -1])
    assert torch.equal(last.map.flatten(2).transpose(1, 2), encoding.tokens)
    (again,) = tower.layers(images, [-1])
    assert all(torch.equal(a, b) for a, b in zip(again, last))
    swapped = tower.layers(images, [-1, -2, -1])
    for layer, wanted in zip(swapped, (last, first, last), strict=True):
        assert torch.equal(layer.pooled, wanted.pooled) and torch.equal(layer.map, wanted.map)
    assert first.pooled.shape == first.map.shape[:2]
    return encoding, last


@pytest.mark.parametrize("cfg", OWN.values(), ids=list(OWN))
def test_the_last_layer_is_what_the_tower_returns(cfg):
    tower = shaken(MODELS.create(cfg, "tower"))
    images = torch.randn(2, 3, 64, 32)
    encoding, last = check_last(tower, images)
    pooled = last.map.mean((2, 3)) if cfg["type"] != "ViT" else encoding.pooled
    torch.testing.assert_close(last.pooled, pooled)
    assert last.map.shape[2] == 2 * last.map.shape[3]  # higher than wide
    tower.layers(images, [0, 1])[1].map.sum().backward()
    assert next(tower.parameters()).grad is not None


@pytest.mark.parametrize("cfg", [OWN["clip_resnet"], OWN["regnet"]], ids=["clip_resnet", "regnet"])
def test_stages_of_a_convnet_halve_the_map(cfg):
    layers = MODELS.create(cfg, "tower").eval().layers(torch.randn(1, 3, 64, 96), range(4))
    assert [layer.map.shape[2] for layer in layers] == [16, 8, 4, 2]
    assert [layer.map.shape[3] for layer in layers] == [24, 12, 6, 3]


@each(IMAGES)
def test_the_last_layer_of_an_adapter_is_what_it_returns(tower, folders):
    built = shaken(build(tower, folders))
    # Those of transformers and mmpretrain resize positions by themselves.
    check_last(built, torch.randn(2, 3, 64, 32))


@needs("timm")
@pytest.mark.parametrize("registers", [0, 2])
def test_a_vit_equals_timms_intermediate_layers(registers):
    import timm

    tower = shaken(ViT(**TINY, registers=registers).double())
    theirs = timm.create_model(
        "vit_tiny_patch16_224",
        **dict(patch_size=4, embed_dim=24, depth=3, num_heads=3, img_size=16, num_classes=0),
        **dict(reg_tokens=registers, dynamic_img_size=True),
    )
    state = tower.state_dict()
    first = state["pos_embed"][:, :1]
    if registers:  # timm gives them positions: here, zeros
        zeros = first.new_zeros(1, registers, 24)
        state["pos_embed"] = torch.cat([first, zeros, state["pos_embed"][:, 1:]], 1)
    theirs.double().eval().load_state_dict(state)
    # timm resizes positions in float32.
    for size, error in (((16, 16), 1e-11), ((32, 24), 1e-5)):
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        wanted = theirs.get_intermediate_layers(
            images, [0, 2], reshape=True, return_prefix_tokens=True, norm=True
        )
        for layer, (patches, prefix) in zip(tower.layers(images, [0, -1]), wanted, strict=True):
            torch.testing.assert_close(layer.map, patches, rtol=0, atol=error)
            torch.testing.assert_close(layer.pooled, prefix[:, 0], rtol=0, atol=error)


@needs("timm")
@each({name: IMAGES[name] for name in ("mmpretrain_vit", "vit", "dinov2", "timm_vit")})
def test_the_last_norm_is_behind_every_block(tower, folders):
    """So a block alone and a network that ends with it give the same."""
    whole = shaken(build(tower, folders))
    torch.manual_seed(1)
    images = torch.randn(2, 3, 16, 32)
    first, _ = whole.layers(images, [0, 1])
    blocks = max(
        (each for each in whole.modules() if isinstance(each, nn.ModuleList | nn.Sequential)),
        key=lambda each: (len(each) == 2) * sum(p.numel() for p in each.parameters()),
    )
    blocks[1].forward = lambda x, *args, **kwargs: x
    (encoding,) = whole([segment(images)])
    torch.testing.assert_close(first.map.flatten(2).transpose(1, 2), encoding.tokens)


@needs("mmpretrain")
def test_a_layer_that_was_not_built_is_named():
    arch = dict(depths=[1, 1, 1, 1], channels=[8, 8, 16, 16])
    cfg = dict(type="MMPretrain", backbone=dict(type="ConvNeXt", arch=arch), input_size=32)
    with pytest.raises(ValueError, match=r"out_indices=\(1, 3\)"):
        build(cfg).layers(torch.randn(1, 3, 32, 32), [1])
    cfg["backbone"]["out_indices"] = (1, 3)
    (layer,) = build(cfg).layers(torch.randn(1, 3, 64, 32), [1])
    assert layer.map.shape == (1, 8, 8, 4)


def test_layers_that_are_not_there_are_refused():
    images = torch.randn(1, 3, 16, 16)
    for indices in ([3], [-4], []):
        with pytest.raises(ValueError, match="3 layers, 0 to 2"):
            ViT(**TINY).layers(images, indices)
    with pytest.raises(ValueError, match="multiple"):
        ViT(**TINY).layers(torch.randn(1, 3, 16, 18), [0])
    with pytest.raises(ValueError, match="Tower has no layers to choose from"):
        Tower().layers(images, [0])


def test_an_average_has_the_layers_of_what_it_follows():
    """A run is measured by its teacher, where it has one."""
    tower, teacher = shaken(build(OWN["vit"])), EMA(of="towers.image")
    teacher.follow(tower)
    images = torch.randn(2, 3, 16, 16)
    for own, copied in zip(tower.layers(images, [0, -1]), teacher.layers(images, [0, -1])):
        assert torch.equal(own.pooled, copied.pooled) and torch.equal(own.map, copied.map)
