"""Weights of other projects: what is read, how it is named, and that towers compute the same.

The stand-ins have random weights and the names, shapes and containers of the published files.
"""

import argparse
import runpy
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from webssl_toolbox import Need
from webssl_toolbox.compat import import_torchvision
from webssl_toolbox.engine.start import load_from
from webssl_toolbox.registry import MODELS
from webssl_toolbox.towers import Part, Segment

from . import cases
from .stand_ins import Clip, Dino, Visual
from .test_backbones import float64, shaken  # noqa: F401

ROOT = Path(__file__).parents[1]
TOOL = SimpleNamespace(**runpy.run_path(str(ROOT / "tools/convert_checkpoint.py")))
SIZE = dict(width=48, depth=2, heads=2)  # of which a gated MLP has two thirds
VIT = dict(type="ViT", patch_size=14, input_size=28, **SIZE)
TEXT = dict(type="TextTransformer", **SIZE)
SMALL = dict(embed_dim=48, depth=2, num_heads=2)


@pytest.fixture
def convert(tmp_path, monkeypatch, capsys):
    """Returns a function that converts a file for a model, and loads it into that model."""
    monkeypatch.chdir(tmp_path)

    def run(file, model, *options):
        config = dict(
            model=model,
            train_dataloader=dict(
                dataset=dict(type="ImageFolder", root="."), batch_size=2, views={}
            ),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3)),
            train_cfg=dict(max_iters=1),
        )
        text = "".join(f"{key} = {value!r}\n" for key, value in config.items())
        Path("config.py").write_text(text)
        monkeypatch.setattr(
            sys, "argv", ["convert_checkpoint.py", str(file), "config.py", *options]
        )
        TOOL.main()
        built = MODELS.create(dict(type="Pretrainer") | model, "model")
        load_from(Path("work_dirs") / Path(file).stem, built)
        return built.eval(), capsys.readouterr().out

    return run


def image_model(**tower):
    return dict(
        towers=dict(image=VIT | tower), objectives=dict(a=dict(type="SimCLR", dim=4, hidden=8))
    )


def clip_model(image, **text):
    return dict(
        towers=dict(image=image, text=TEXT | text),
        spaces=dict(joint=dict(type="JointSpace", dim=24)),
        objectives=dict(clip=dict(type="CLIP")),
    )


def encode(tower, images):
    (encoding,) = tower([Segment(Need("image", "v1"), (Part("v1", images),))])
    return encoding


def close(ours, theirs):
    assert theirs.std() > 1e-3, "nothing is compared"
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


# -- vision transformers -------------------------------------------------------------------------


def timm_model(name, **options):
    import_torchvision()
    timm = pytest.importorskip("timm")
    return shaken(timm.create_model(name, num_classes=0, **options)).eval()


TIMM = {
    "vit_small_patch14_dinov2": dict(layer_scale=1.0),
    "vit_small_patch14_reg4_dinov2": dict(layer_scale=1.0, registers=4),
    "vit_giant_patch14_dinov2": dict(layer_scale=1.0, ffn="swiglu", mlp_ratio=4.0),
    "vit_small_patch16_224.dino": dict(patch_size=16, input_size=32),
    "vit_base_patch32_clip_quickgelu_224": dict(
        patch_size=32, input_size=64, pre_norm=True, activation="quick_gelu", norm_eps=1e-5
    ),
}


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_timms_vision_transformers_compute_the_same(name, convert):
    tower = VIT | TIMM[name]
    theirs = timm_model(name, img_size=tower["input_size"], **SMALL)
    torch.save(theirs.state_dict() | {"head.weight": torch.ones(3, 48)}, "theirs.pth")
    model, said = convert("theirs.pth", image_model(**TIMM[name]))
    images = torch.randn(2, 3, tower["input_size"], tower["input_size"])
    encoding = encode(model.towers.image, images)
    close(encoding.pooled, theirs(images))
    close(encoding.tokens, theirs.forward_features(images)[:, theirs.num_prefix_tokens :])
    assert "not used: head.weight (1 tensors)" in said and "missing" not in said


@torch.no_grad()
def test_an_adapter_keeps_the_names_of_its_library(convert):
    theirs = timm_model("resnet10t")
    torch.save({"state_dict": theirs.state_dict()}, "theirs.pth")
    model = image_model()
    model["towers"]["image"] = dict(type="Timm", name="resnet10t", input_size=32)
    built, said = convert("theirs.pth", model)
    images = torch.randn(2, 3, 32, 32)
    close(encode(built.towers.image, images).pooled, theirs(images))
    assert "missing" not in said


@pytest.mark.slow
@torch.no_grad()
def test_a_whole_vit_small_computes_the_same(convert):
    theirs = timm_model("vit_small_patch14_dinov2", img_size=224)
    torch.save(theirs.state_dict(), "theirs.pth")
    tower = dict(arch="S", width=384, depth=12, heads=6, input_size=224, layer_scale=1.0)
    model, _ = convert("theirs.pth", image_model(**tower))
    images = torch.randn(2, 3, 224, 224)
    close(encode(model.towers.image, images).pooled, theirs(images))


def chunked(state, size):
    """Names blocks as DINOv2 does with ``block_chunks``: ``blocks.<chunk>.<block>.``."""

    def name(key):
        first, _, rest = key.partition(".")
        block, _, inside = rest.partition(".")
        return f"blocks.{int(block) // size}.{block}.{inside}" if first == "blocks" else key

    return {name(key): value for key, value in state.items()}


def apart(state):
    """Splits DINOv2's gated matrix as its code without xformers does."""
    out = {}
    for key, value in state.items():
        if ".w12." in key:
            out[key.replace("w12", "w1")], out[key.replace("w12", "w2")] = value.chunk(2)
        else:
            out[key] = value
    return out


FILES = {
    "backbone": lambda state: state,
    "in chunks": lambda state: chunked(state, 1),
    "w1 and w2": apart,
    "teacher": lambda state: {
        "teacher": {f"backbone.{key}": value for key, value in state.items()}
    },
    "dino": lambda state: dict(
        student={f"module.backbone.{key}": torch.zeros(1) for key in state},
        teacher=OrderedDict((f"backbone.{key}", value) for key, value in state.items()),
        epoch=3,
        args=argparse.Namespace(arch="vit_small", lr=0.1),
    ),
    "compiled": lambda state: {"model": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
    "half": lambda state: state,
}


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("gated", [False, True], ids=["mlp", "swiglu"])
@torch.no_grad()
def test_files_of_dino_compute_the_same(form, gated, convert):
    theirs = shaken(Dino(48, 2, 2, grid=2, patch=14, gated=gated, registers=3)).eval()
    torch.save(FILES[form](theirs.state_dict()), "theirs.pth")
    tower = dict(layer_scale=1.0, registers=3, ffn="swiglu" if gated else "mlp", mlp_ratio=4.0)
    model, said = convert("theirs.pth", image_model(**tower))
    images = torch.randn(2, 3, 28, 28)
    close(encode(model.towers.image, images).pooled, theirs(images))
    assert "not used: mask_token" in said.replace("backbone.", "").replace("_orig_mod.module.", "")


def test_heads_of_dino_become_prototypes(convert):
    theirs = shaken(Dino(48, 2, 2, grid=2, patch=14, gated=False)).state_dict()
    head = {"mlp.0.weight": torch.randn(8, 48), "mlp.0.bias": torch.randn(8)}
    head |= {"mlp.2.weight": torch.randn(6, 8), "mlp.2.bias": torch.randn(6)}
    head |= {"last_layer.weight_v": torch.randn(5, 6), "last_layer.weight_g": torch.rand(5, 1)}
    state = {f"backbone.{key}": value for key, value in theirs.items()}
    state |= {f"dino_head.{key}": value for key, value in head.items()}
    torch.save({"teacher": state}, "theirs.pth")
    model = image_model(layer_scale=1.0)
    model["towers"]["image_ema"] = dict(type="EMA", of="towers.image", momentum=0.9)
    prototypes = dict(type="Prototypes", count=5, hidden=8, layers=2, bottleneck=6, learn_norm=True)
    proto_ema = dict(type="EMA", of="spaces.proto", momentum=0.9)
    model |= dict(
        spaces=dict(proto=prototypes, proto_ema=proto_ema),
        objectives=dict(dino=dict(type="DINO", locals=())),
    )
    built, said = convert("theirs.pth", model)
    assert "spaces.proto: 6 of 6 tensors" in said
    space = built.spaces.proto
    assert space.last_layer.weight.equal(head["last_layer.weight_v"])
    assert space.last_layer.gain.equal(head["last_layer.weight_g"])
    assert space.mlp[2].weight.equal(head["mlp.2.weight"])
    assert built.spaces.proto_ema.module.mlp[0].bias.equal(head["mlp.0.bias"])  # its average, too


@torch.no_grad()
def test_mae_leaves_its_decoder_behind(convert):
    theirs = timm_model("vit_base_patch16_224", img_size=32, **SMALL)
    decoder = {"mask_token": torch.randn(1, 1, 8), "decoder_embed.weight": torch.randn(8, 48)}
    torch.save({"model": theirs.state_dict() | decoder}, "theirs.pth")
    model, said = convert("theirs.pth", image_model(patch_size=16, input_size=32))
    images = torch.randn(2, 3, 32, 32)
    close(encode(model.towers.image, images).pooled, theirs(images))
    assert "not used: mask_token, decoder_embed" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers", "vit"])
@torch.no_grad()
def test_transformers_vision_transformers_compute_the_same(kind, convert):
    import_torchvision()
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=2, intermediate_size=192)
    config = transformers.AutoConfig.for_model(kind, image_size=28, patch_size=14, **sizes)
    config.layer_norm_eps, config.use_swiglu_ffn = 1e-6, kind == "dinov2"
    theirs = shaken(transformers.AutoModel.from_config(config))
    theirs.save_pretrained("folder")
    tower = {} if kind == "vit" else dict(layer_scale=1.0)
    tower |= dict(ffn="swiglu") if kind == "dinov2" else {}
    tower |= dict(registers=4) if "registers" in kind else {}
    model, said = convert("folder/model.safetensors", image_model(mlp_ratio=4.0, **tower))
    images = torch.randn(2, 3, 28, 28)
    expected = theirs(images).last_hidden_state[:, 0]
    close(encode(model.towers.image, images).pooled, expected)
    assert "missing" not in said


# -- CLIP ----------------------------------------------------------------------------------------


def compare_clips(model, theirs, side):
    images = torch.randn(2, 3, side, side)
    ids = torch.tensor([[49406, 320, 2368, 49407], [49406, 5, 7, 49407]])
    part = Part("text", ids, length=torch.full([2], 4))
    (text,) = model.towers.text([Segment(Need("text", "text"), (part,))])
    image = model.spaces.joint(encode(model.towers.image, images).pooled, "image")
    close(image, F.normalize(theirs.visual(images), dim=-1))
    close(model.spaces.joint(text.pooled, "text"), F.normalize(theirs.encode_text(ids), dim=-1))
    assert model.spaces.joint.scale().item() == pytest.approx(theirs.logit_scale.exp().item())


@torch.no_grad()
def test_clip_with_a_vision_transformer_computes_the_same(convert):
    theirs = shaken(Clip(Visual()))
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"epoch": 1, "name": "x", "state_dict": state}, "theirs.pt")
    tower = dict(pre_norm=True, activation="quick_gelu", norm_eps=1e-5)
    model, said = convert("theirs.pt", clip_model(VIT | tower | dict(patch_size=16, input_size=32)))
    compare_clips(model, theirs, 32)
    assert "missing" not in said and "not used" not in said


@torch.no_grad()
def test_clip_with_a_resnet_computes_the_same(convert):
    """Its tower has the names of OpenAI's; what is new is the joint space, and the text tower."""
    tower = dict(cases.RESNET, out_width=24)
    resnet = shaken(MODELS.create(tower, "tower")).eval()
    theirs = shaken(Clip(nn.Identity()))
    state = theirs.state_dict() | {f"visual.{k}": v for k, v in resnet.state_dict().items()}
    state["visual.bn1.num_batches_tracked"] = torch.tensor(5)
    save_file(state, "theirs.safetensors")
    model, said = convert("theirs.safetensors", clip_model(tower))
    theirs.visual.forward = lambda images: encode(resnet, images).pooled
    compare_clips(model, theirs, 32)
    assert "missing" not in said and "not used" not in said
