"""Every objective's value and gradient against loops over its paper's formula, in float64."""

import itertools
import math
from collections import deque

import pytest
import torch

from tests.plain import (
    PATCHES,
    WORDS,
    Setting,
    both_ways,
    compare,
    cross_entropy,
    dot,
    info_nce,
    linear,
    mean,
    nearest,
    remember,
    simsiam,
    unit,
)
from webssl_plugins.objectives import _common, filip
from webssl_toolbox import Progress
from webssl_toolbox.norm import SyncBatchNorm

torch.set_num_threads(1)

# -- contrast ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True, ("text",)])
def test_clip(bias):
    setting = Setting("CLIP", joint=dict(bias=bias))
    biased = {name for name, layer in setting.space.project.items() if layer.bias is not None}
    assert biased == ({"image", "text"} if bias is True else set(bias or ()))
    compare(setting, both_ways(setting.embedded("v1"), setting.embedded("text"), setting.scale()))


def test_clip_by_hand():
    """Two orthogonal pairs: each row's logits are (s, 0), so the loss is log(1 + exp(-s))."""
    pairs, scale = torch.eye(2)[None], torch.tensor([3.0])
    loss = _common.contrast(pairs, pairs, scale)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-3)))


@pytest.mark.parametrize("skip", [(("v1", "text"),), (("v2", "text_aug"), ("v2", "text")), ()])
def test_multi_view(skip):
    setting = Setting("MultiView", skip=skip)
    pairs = set(itertools.product(("v1", "v2"), ("text", "text_aug"))) - set(skip)
    losses = [
        both_ways(setting.embedded(image), setting.embedded(text), setting.scale())
        for image, text in sorted(pairs)
    ]
    compare(setting, mean(losses))


# -- SimSiam, MLM --------------------------------------------------------------------------------


@pytest.mark.parametrize("sync_bn", [True, False])
@pytest.mark.parametrize(
    "options", [{}, dict(space="joint"), dict(space="joint", normalize=False)], ids=str
)
def test_simsiam(options, sync_bn):
    setting = Setting("SimSiam", dim=4, hidden=3, sync_bn=sync_bn, **options)
    norm = SyncBatchNorm if sync_bn else torch.nn.BatchNorm1d
    assert [type(layer) for layer in setting.objective.projector[1::3]] == [norm] * 3
    if not options:
        inputs = [setting.encoding(view).pooled for view in ("v1", "v2")]
    elif "normalize" not in options:
        inputs = [setting.embedded(view) for view in ("v1", "v2")]
    else:
        project = setting.space.project["image"]
        inputs = [linear(project, setting.encoding(view).pooled) for view in ("v1", "v2")]
    compare(setting, simsiam(setting, inputs))


def test_mlm():
    setting = Setting("MLM")
    (encoding,) = setting.encodings.values()
    hidden = [encoding.tokens[0, 1], encoding.tokens[1, 2], encoding.tokens[1, WORDS - 1]]
    logits = linear(setting.objective.head, hidden)
    losses = [cross_entropy(row, t) for row, t in zip(logits, (3, 6, 3), strict=True)]
    compare(setting, mean(losses))


def test_mlm_by_hand():
    """A head of zeros says 1 / V everywhere; without a hidden word, there is nothing to learn."""
    setting = Setting("MLM")
    torch.nn.init.zeros_(setting.objective.head.weight)
    torch.nn.init.zeros_(setting.objective.head.bias)
    assert setting.forward()["loss"].item() == pytest.approx(math.log(7))
    for name in ("index", "target"):
        setting.inputs[f"text_mlm.{name}"] = torch.empty(0, dtype=torch.int64)
    loss = setting.forward()["loss"]
    loss.backward()
    assert loss == 0 and not setting.objective.head.weight.grad.any()


# -- the queue -----------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("enqueue", "size"), [("text", 6), (("text_aug", "text"), 6), (["text_aug", "text"], 11)]
)
def test_nn_queue(symmetric, enqueue, size):
    """Over several steps, in which the queue fills, wraps around and is replaced."""
    setting = Setting("NNQueue", size=size, enqueue=enqueue, symmetric=symmetric)
    loss = both_ways if symmetric else info_nce
    memory = deque(maxlen=size)
    for step in range(5):
        if len(memory) < size:
            assert setting.forward()["loss"] == 0
        else:
            pairs = itertools.product(("v1", "v2"), ("text", "text_aug"))
            losses = [
                loss(setting.embedded(image), nearest(memory, setting, text), setting.scale())
                for image, text in pairs
            ]
            compare(setting, mean(losses))
        remember(memory, setting, [enqueue] if isinstance(enqueue, str) else enqueue)
        setting.objective.after_step(Progress(step + 1, 9))
        setting.next_batch()
    assert len(memory) == size


# -- FILIP ---------------------------------------------------------------------------------------


def late_interaction(setting, image, text, k):
    """A pair's similarity by patches and by words, each the mean of maxima (section 3.1)."""
    patches, words = [], []
    for i in range(setting.rows):
        written = setting.encoding(text).valid[i].sum()
        project = setting.space.project
        patches.append(
            [unit(v) for v in linear(project["image"], setting.encoding(image).tokens[i])]
        )
        tokens = setting.encoding(text).tokens[i][:written]
        words.append([unit(v) for v in linear(project["text"], tokens)])

    def kept(tokens, partners):
        order = sorted(tokens, key=lambda t: -sum(dot(t, other) for other in partners).item())
        return order[:k]

    def similarity(tokens, offered):
        return mean(torch.stack([dot(t, o) for o in offered]).max() for t in tokens)

    best_patches = [kept(p, w) for p, w in zip(patches, words, strict=True)]
    best_words = [kept(w, p) for p, w in zip(patches, words, strict=True)]
    scale, losses = setting.scale(), []
    for i in range(setting.rows):
        losses.append(cross_entropy([scale * similarity(patches[i], w) for w in best_words], i))
        losses.append(cross_entropy([scale * similarity(words[i], p) for p in best_patches], i))
    return mean(losses)


@pytest.mark.parametrize("rows", [4096, PATCHES], ids=["whole", "row by row"])
@pytest.mark.parametrize(
    ("k", "images", "texts"), [(2, ["v1"], ["text"]), (16, ["v1", "v2"], ["text", "text_aug"])]
)
def test_filip(k, images, texts, rows, monkeypatch):
    monkeypatch.setattr(filip, "ROWS", rows)
    setting = Setting("FILIP", top_k=k, images=images, texts=texts, space="tokens")
    pairs = itertools.product(images, texts)
    compare(setting, mean(late_interaction(setting, *pair, k) for pair in pairs))


def test_filip_by_hand():
    """Image 0 shows a and b, image 1 shows c alone; captions say a, and c.

    From the images, the logits are (s / 2, 0) and (0, s); from the captions, (s, 0) and (0, s).
    """
    a, b, c = torch.eye(3)
    images, texts = torch.stack([torch.stack([a, b]), torch.stack([c, c])]), torch.stack([a, c])
    share, scale = torch.full([2, 2], 0.5), torch.tensor([3.0])
    loss = filip.late_contrast(images, share, texts[:, None], share[:, :1] * 2, scale, 16)
    rows = [math.log(1 + math.exp(-s)) for s in (1.5, 3, 3, 3)]
    assert loss.item() == pytest.approx(sum(rows) / 4)
