"""Towers of other libraries at small width, and the folders that those of transformers read."""

import json
from importlib.util import find_spec

import pytest

from webssl_toolbox.objective import Need
from webssl_toolbox.registry import MODELS
from webssl_toolbox.testing import Case
from webssl_toolbox.towers import Part, Segment

from . import cases

TIMM_RESNET = dict(
    type="Timm", name="resnet10t", input_size=32, kwargs=dict(channels=(8, 8, 8, 8), stem_width=8)
)
TIMM_VIT = dict(
    type="Timm",
    name="vit_tiny_patch16_224",
    input_size=16,
    kwargs=dict(patch_size=8, embed_dim=16, depth=2, num_heads=2),
)
MM_RESNET = dict(
    type="MMPretrain",
    backbone=dict(type="ResNet", depth=18, stem_channels=8, base_channels=8),
    input_size=32,
)
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
MM_VIT = dict(
    type="MMPretrain",
    backbone=dict(type="VisionTransformer", arch=ARCH, patch_size=8),
    input_size=16,
)
SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
VISION = SIZES | dict(image_size=16, patch_size=8)
TEXT = SIZES | dict(vocab_size=70, max_position_embeddings=32)
NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
FOLDERS = {
    "vit": VISION | dict(model_type="vit"),
    "dinov2": VISION | dict(model_type="dinov2", mlp_ratio=2),
    "resnet": dict(
        model_type="resnet",
        embedding_size=8,
        hidden_sizes=[8, 8],
        depths=[1, 1],
        layer_type="basic",
    ),
    "bert": TEXT | NO_DROPOUT | dict(model_type="bert"),
    "clip": dict(
        model_type="clip",
        projection_dim=16,
        text_config=TEXT | dict(bos_token_id=1, eos_token_id=2, pad_token_id=0),
        vision_config=VISION,
    ),
}


@pytest.fixture(scope="session", name="folders")
def model_folders(tmp_path_factory):
    """A folder for each config, with a tokenizer of 60 words in those of text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    root = tmp_path_factory.mktemp("models")
    for name, config in FOLDERS.items():
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(config))
    marks = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    for name, special in (("bert", marks), ("clip", marks[:4])):
        words = [*special, *(f"word{i}" for i in range(70 - len(special)))]
        ids = {word: i for i, word in enumerate(words)}
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.add_special_tokens(special)
        if name == "bert":
            frame = [("[CLS]", 1), ("[SEP]", 2)]
            tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, frame)
        tokenizer.save(str(root / name / "tokenizer.json"))
    return root


IMAGES = {
    "timm_resnet": TIMM_RESNET,
    "timm_vit": TIMM_VIT,
    "mmpretrain_resnet": MM_RESNET,
    "mmpretrain_vit": MM_VIT,
    "vit": dict(type="TransformersImage", folder="vit"),
    "dinov2": dict(type="TransformersImage", folder="dinov2", pool="mean"),
    "clip_vision": dict(type="TransformersImage", folder="clip"),
    "resnet": dict(type="TransformersImage", folder="resnet", input_size=32),
}
TEXTS = {
    "bert": dict(type="TransformersText", folder="bert", pool="cls"),
    "clip_text": dict(type="TransformersText", folder="clip"),
    "bert_mean": dict(type="TransformersText", folder="bert", pool="mean"),
}
PACKAGE = dict(Timm="timm", MMPretrain="mmpretrain")


def each(towers):
    return pytest.mark.parametrize("tower", [param(n, t) for n, t in towers.items()])


def param(name, tower):
    package = PACKAGE.get(tower["type"], "transformers")
    return pytest.param(tower, id=name, marks=needs(package))


def needs(package):
    return pytest.mark.skipif(not find_spec(package), reason=f"needs {package}")


def local(tower, root):
    named = root is not None and "folder" in tower
    return tower | dict(folder=str(root / tower["folder"])) if named else tower


def build(tower, root=None):
    return MODELS.create(local(tower, root), "tower")


def declip(tower):
    kind = "text" if tower["type"] == "TransformersText" else "image"
    return Case(cases.DECLIP.model | dict(towers=cases.TOWERS | {kind: tower}))


def segment(data, length=None, keep=None, mask=None):
    need = Need("tower", "v", "k" if keep is not None else None, "m" if mask is not None else None)
    return Segment(need, (Part("v", data, length, keep, mask),))
