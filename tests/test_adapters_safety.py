"""What adapter towers load and refuse: local safetensors, registered names, no network."""

import json
import shutil
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from safetensors.torch import save_file

import webssl_toolbox
from webssl_toolbox.engine import checkpoint
from webssl_toolbox.objective import Need
from webssl_toolbox.registry import MODELS

from .adapters import (
    FOLDERS,
    IMAGES,
    MM_RESNET,
    MM_VIT,
    PACKAGE,
    TEXTS,
    TIMM_RESNET,
    TIMM_VIT,
    build,
    declip,
    each,
    model_folders,  # noqa: F401
    needs,
)

# -- weights -------------------------------------------------------------------------------------


@each({name: IMAGES[name] for name in ("timm_resnet", "timm_vit", "mmpretrain_resnet")})
def test_pretrained_weights_come_from_a_local_file(tower, tmp_path):
    file = tmp_path / "model.safetensors"
    state = {
        name: torch.rand_like(value) for name, value in build(tower).model.state_dict().items()
    }
    save_file(state, file)
    loaded = build(tower | dict(pretrained=str(file))).model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items())
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    torch.save(state, tmp_path / "model.bin")
    for name, match in (("other.safetensors", "Missing key"), ("model.bin", "may run code")):
        with pytest.raises(ValueError, match=match):
            build(tower | dict(pretrained=str(tmp_path / name)))
    with pytest.raises(FileNotFoundError, match="none are downloaded"):
        build(tower | dict(pretrained="nowhere.safetensors"))


@needs("timm")
def test_a_trained_model_needs_no_initial_weights(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(build(TIMM_RESNET).model.state_dict(), file)
    config = dict(
        model=declip(TIMM_RESNET | dict(pretrained=str(file))).model,
        test_view=[dict(type="ResizeCenterCrop", size=32), dict(type="Normalize")],
    )
    model = MODELS.create(dict(type="Pretrainer") | config["model"], "model")
    path = checkpoint.save(tmp_path / "checkpoints", 1, model, meta=dict(config=config))
    file.unlink()
    loaded = webssl_toolbox.load(path).model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


@needs("timm")
def test_pretrained_positions_take_the_size_of_the_input(tmp_path):
    file = tmp_path / "model.safetensors"
    small = build(TIMM_VIT).model.state_dict()
    save_file(small | {"head.weight": torch.zeros(3, 16)}, file)
    large = build(TIMM_VIT | dict(input_size=32, pretrained=str(file))).model
    assert large.pos_embed.shape == (1, 17, 16)
    assert torch.equal(large.blocks[1].attn.qkv.weight, small["blocks.1.attn.qkv.weight"])


@needs("transformers")
@pytest.mark.parametrize("name", ["dinov2", "bert", "clip"])
def test_pretrained_transformers_come_from_their_folder(name, folders, tmp_path):
    import transformers

    folder = shutil.copytree(folders / name, tmp_path / name)
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = "TransformersText" if name == "bert" else "TransformersImage"
    tower = dict(type=kind, folder=str(folder), pretrained=True)
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors"):
        build(tower)
    theirs = transformers.AutoModel.from_config(config)
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"a .bin file may run code"):
        build(tower)
    theirs.save_pretrained(folder)
    state = theirs.state_dict()
    for key, value in build(tower).model.state_dict().items():
        theirs_key = key if key in state else f"vision_model.{key}"
        assert torch.equal(value, state[theirs_key]), key


# -- what is refused -----------------------------------------------------------------------------

DROP, HIDE = Need("image", "v1", keep="k"), Need("image", "v1", mask="m")
FUSED = Need("image", ("v1", "text"))


@each(IMAGES | TEXTS)
def test_needs_that_a_model_cannot_serve_are_refused(tower, folders):
    built = build(tower, folders)
    vit = "vit" in str(tower) and tower["type"] == "Timm"
    hides = vit or tower.get("folder") in ("vit", "dinov2")
    refused = [(FUSED, "single views"), *([] if vit else [(DROP, "cannot keep|all patches")])]
    for need, match in refused + ([] if hides else [(HIDE, "cannot keep or mask")]):
        with pytest.raises(ValueError, match=match):
            built.plan(frozenset({need}))
    if not hides:
        with pytest.raises(ValueError, match="has no patches"):
            built.num_patches()


def bad(base, match, **change):
    return pytest.param(base | change, match, marks=needs(PACKAGE.get(base["type"])))


def backbone(**change):
    return dict(backbone=MM_RESNET["backbone"] | change)


@pytest.mark.parametrize(
    "tower, match",
    [
        bad(TIMM_RESNET, "the nearest are resnet", name="resnet51"),
        bad(TIMM_RESNET, "has no model", name="hf-hub:timm/resnet18"),
        bad(TIMM_RESNET, "kwargs.checkpoint_path", kwargs=dict(checkpoint_path="evil.pth")),
        bad(TIMM_RESNET, "kwargs.pretrained", kwargs=dict(pretrained=True)),
        bad(TIMM_RESNET, "kwargs.pretrained_cfg", kwargs=dict(pretrained_cfg=dict(file="x"))),
        bad(TIMM_RESNET, "kwargs.features_only", kwargs=dict(features_only=True)),
        bad(TIMM_RESNET, "unexpected keyword", kwargs=dict(depht=3)),
        bad(TIMM_RESNET, "does not pool", kwargs=dict(global_pool="")),
        bad(TIMM_VIT, "divisible by patch size", input_size=17),
        bad(TIMM_VIT, "neither one sequence", name="coat_tiny", kwargs={}, input_size=224),
        bad(MM_RESNET, "did you mean 'depth'", **backbone(dept=18)),
        bad(MM_RESNET, "no backbone of mmpretrain", **backbone(type="TIMMBackbone")),
        bad(MM_RESNET, "no backbone of mmpretrain", **backbone(type="os.system")),
        bad(MM_RESNET, "no layer", **backbone(norm_cfg=dict(type="subprocess.getoutput"))),
        bad(MM_RESNET, "no layer", **backbone(norm_cfg=dict(type="evil_module"))),
        bad(MM_RESNET, "no layer", **backbone(conv_cfg=[dict(type=["x"])])),
        bad(MM_RESNET, "backbone.init_cfg", **backbone(init_cfg=dict(type="Pretrained"))),
        bad(MM_RESNET, "_scope_", **backbone(norm_cfg=dict(type="BN", _scope_="evil_module"))),
        bad(MM_RESNET, "norm_eval", **backbone(norm_eval=True)),
        bad(MM_VIT, "img_size is for the tower", backbone=MM_VIT["backbone"] | dict(img_size=8)),
    ],
)
def test_what_a_config_must_not_say(tower, match):
    with pytest.raises(ValueError, match=match):
        build(tower)


@needs("mmpretrain")
@needs("transformers")
def test_a_function_that_mmpretrain_registers_is_no_layer(tmp_path):
    """With pycocotools, it registers one itself that runs the code of a model folder."""
    import_module("mmpretrain.models")
    import_module("mmpretrain.models.utils.huggingface")
    (tmp_path / "config.json").write_text(
        json.dumps(dict(model_type="evil", auto_map=dict(AutoConfig="evil.Evil")))
    )
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    evil = dict(type="AutoModelForCausalLM", name_or_path=str(tmp_path), trust_remote_code=True)
    with pytest.raises(ValueError, match="no layer that mmpretrain registers"):
        build(dict(type="MMPretrain", backbone=dict(type="ConvNeXt", arch="tiny", act_cfg=evil)))
    assert not (tmp_path / "canary").exists()


@needs("transformers")
def test_a_folder_names_no_code_and_no_network(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    vit = FOLDERS["vit"]
    for change, match in (
        (dict(auto_map={"AutoModel": "evil.Evil"}), "auto_map"),
        (dict(auto_map={"AutoConfig": "someone/repo--evil.Evil"}), "auto_map"),
        (dict(quantization_config={"quant_method": "bitsandbytes"}), "quantization_config"),
        (dict(model_type="evil"), "Unrecognized model"),
        (dict(model_type="t5"), "encoder-decoder"),
        (dict(model_type="detr"), "builds on the backbone"),  # and would download its weights
        (dict(model_type="timm_wrapper", architecture="resnet18"), "builds on the architecture"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(vit | change))
        with pytest.raises(ValueError, match=match):
            build(dict(type="TransformersImage", folder=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps([vit]))
    with pytest.raises(ValueError, match="not a JSON object"):
        build(dict(type="TransformersImage", folder=str(tmp_path)))
    # A kernel from the hub is dropped, not followed.
    kernel = dict(_attn_implementation="someone/kernel", attn_implementation="someone/kernel")
    (tmp_path / "config.json").write_text(json.dumps(vit | kernel))
    tower = build(dict(type="TransformersImage", folder=str(tmp_path)))
    assert tower.model.config._attn_implementation == "sdpa"
    for kind, folder, match in (
        ("TransformersImage", "google/vit-base-patch16-224", "folder is local"),
        ("TransformersText", str(tmp_path), "tokenizer.json"),
    ):
        with pytest.raises(FileNotFoundError, match=match):
            build(dict(type=kind, folder=folder))


@pytest.mark.parametrize("tower", [TIMM_VIT, MM_VIT, dict(type="TransformersImage", folder="x")])
def test_a_missing_package_names_its_extra(tower, monkeypatch):
    extra = PACKAGE.get(tower["type"], "transformers")
    for name in [n for n in sys.modules if n == extra or n.startswith(f"{extra}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(ValueError, match=rf"pip install 'webssl-toolbox\[{extra}\]'"):
        build(tower)


def test_registering_the_adapters_imports_none_of_them():
    code = (
        "import sys, webssl_toolbox.registry as r; assert 'Timm' in r.MODELS;"
        "sys.exit(len({'timm', 'mmpretrain', 'transformers', 'torchvision'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
