"""The towers against the models that others publish; skipped where their libraries are missing.

Where a library names the parameters as a tower does, weights are copied as they are.
"""

import pytest
import torch

from webssl_plugins.backbones import bert, clip_resnet, regnet, vit
from webssl_toolbox.compat import import_torchvision

from .test_backbones import captions, close, float64, segment, shaken  # noqa: F401

VITS = {
    "vit_tiny_patch16_224": dict(arch="Ti"),
    "vit_small_patch16_224": dict(arch="S"),
    "vit_base_patch32_224": dict(arch="B", patch_size=32),
    "vit_large_patch16_224": dict(arch="L"),
    "vit_huge_patch14_224": dict(arch="H", patch_size=14),
    "vit_giant_patch14_224": dict(arch="g", patch_size=14),
    "vit_gigantic_patch14_224": dict(arch="G", patch_size=14),
    "vit_giant_patch14_dinov2": dict(
        arch="g-dinov2", patch_size=14, input_size=518, layer_scale=1e-5
    ),
    "vit_base_patch32_clip_quickgelu_224": dict(
        arch="B", patch_size=32, pre_norm=True, activation="quick_gelu", norm_eps=1e-5
    ),
}


def peer(name):
    import_torchvision()
    return pytest.importorskip(name)


@pytest.fixture(scope="module")
def timm():
    return peer("timm")


def shapes(module):
    named = module.state_dict().items()
    return {k: v.shape for k, v in named if not k.endswith("num_batches_tracked")}


def copied(peer, tower):
    """Loads the weights of a peer; the bias of CLIP's patches, which it lacks, is zero."""
    missing, unexpected = tower.load_state_dict(shaken(peer).state_dict(), strict=False)
    assert set(missing) <= {"patch_embed.proj.bias"}
    assert all(key.endswith("num_batches_tracked") for key in unexpected)
    for key in missing:
        torch.nn.init.zeros_(tower.get_parameter(key))
    return tower


@pytest.mark.parametrize("arch", regnet.ARCHS)
def test_regnet_has_the_shapes_of_timms(arch, timm):
    size = float(arch[:-2]) / (1000 if arch.endswith("MF") else 1)
    with torch.device("meta"):
        theirs = timm.create_model(f"regnety_{round(10 * size):03}", num_classes=0)
        assert shapes(regnet.RegNetY(arch)) == shapes(theirs)


def test_regnet_equals_timms(timm):
    theirs = timm.create_model("regnety_002", num_classes=0)
    ours = copied(theirs, regnet.RegNetY("200MF"))
    views = [torch.randn(3, 3, 64, 96), torch.randn(2, 3, 64, 96)]
    for encoding, view in zip(ours([segment(view) for view in views]), views, strict=True):
        features = theirs.forward_features(view)
        close(encoding.tokens, features.flatten(2).transpose(1, 2), 1e-8)
        close(encoding.pooled, theirs.forward_head(features), 1e-8)
    for key, value in ours.state_dict().items():  # running statistics
        close(value, theirs.state_dict()[key])


@pytest.mark.parametrize("name", VITS)
def test_vit_has_the_shapes_of_timms(name, timm):
    with torch.device("meta"):
        ours, theirs = shapes(vit.ViT(**VITS[name])), timm.create_model(name, num_classes=0)
    if "clip" in name:
        del ours["patch_embed.proj.bias"]
    assert ours == shapes(theirs)


@pytest.mark.parametrize("name", [name for name in VITS if "224" not in name or "clip" in name])
def test_vit_equals_timms(name, timm):
    options = VITS[name] | dict(depth=2, input_size=2 * VITS[name]["patch_size"])
    theirs = timm.create_model(name, num_classes=0, depth=2, img_size=options["input_size"])
    ours = copied(theirs, vit.ViT(**options))
    images = torch.randn(2, 3, ours.input_size, ours.input_size)
    (encoding,) = ours([segment(images)])
    close(encoding.pooled, theirs(images), 1e-8)
    close(encoding.tokens, theirs.forward_features(images)[:, 1:], 1e-8)


def modified_resnet(arch, side=None):
    open_clip = peer("open_clip")
    cfg = open_clip.get_model_config(f"RN{arch}")
    vision = cfg["vision_cfg"]
    width = vision["width"]
    return peer("open_clip.modified_resnet").ModifiedResNet(
        vision["layers"],
        cfg["embed_dim"],
        heads=width * 32 // vision.get("head_width", 64),
        image_size=side or vision["image_size"],
        width=width,
    )


@pytest.mark.parametrize("arch", clip_resnet.ARCHS)
def test_clip_resnet_has_the_shapes_of_open_clips(arch):
    with torch.device("meta"):
        ours, theirs = clip_resnet.CLIPResNet(arch), modified_resnet(arch)
    assert shapes(ours) == shapes(theirs)
    assert ours.attnpool.heads == theirs.attnpool.num_heads


def test_clip_resnet_equals_open_clips():
    theirs = modified_resnet("50", 64)
    ours = copied(theirs, clip_resnet.CLIPResNet("50", input_size=64))
    images = torch.randn(3, 3, 64, 64)
    (encoding,) = ours([segment(images)])
    close(encoding.pooled, theirs(images), 1e-8)


def test_bert_equals_transformers():
    transformers = peer("transformers")
    config = transformers.BertConfig(
        vocab_size=600,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        max_position_embeddings=77,
        attn_implementation="eager",
    )
    theirs = shaken(transformers.BertModel(config)).eval()
    ours = bert.BERT(width=24, depth=2, heads=3, vocab_size=600)
    load_bert(ours, theirs.state_dict())
    view = captions([20, 3, 77, 8, 41], 77)
    lengths = view.part.length.tolist()
    (encoding,) = ours([view])
    for row, length in enumerate(lengths):
        want = theirs(view.part.data[row : row + 1, :length])
        close(encoding.tokens[row, :length], want.last_hidden_state[0], 1e-9)
        close(encoding.pooled[row], want.pooler_output[0], 1e-9)
    extra = config.hidden_size * config.type_vocab_size  # of sentences: part of our positions
    count = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert count[0] == count[1] - extra


def load_bert(tower, weights):
    """Fuses queries, keys and values, and adds the embedding of the first sentence to positions."""
    named = {
        "token_embedding.weight": weights["embeddings.word_embeddings.weight"],
        "positional_embedding": weights["embeddings.position_embeddings.weight"]
        + weights["embeddings.token_type_embeddings.weight"][0],
    }
    for kind in ("weight", "bias"):
        named[f"norm.{kind}"] = weights[f"embeddings.LayerNorm.{kind}"]
        named[f"pooler.{kind}"] = weights[f"pooler.dense.{kind}"]
        for i in range(len(tower.blocks)):
            layer = f"encoder.layer.{i}."
            parts = [
                weights[f"{layer}attention.self.{n}.{kind}"] for n in ("query", "key", "value")
            ]
            named[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
            for ours, theirs in {
                "attn.proj": "attention.output.dense",
                "norm1": "attention.output.LayerNorm",
                "mlp.fc1": "intermediate.dense",
                "mlp.fc2": "output.dense",
                "norm2": "output.LayerNorm",
            }.items():
                named[f"blocks.{i}.{ours}.{kind}"] = weights[f"{layer}{theirs}.{kind}"]
    tower.load_state_dict(named)
