"""BERT as a text tower against one caption at a time, in float64."""

import pytest
import torch
import torch.nn.functional as F

from webssl_plugins.backbones.bert import BERT

from .test_backbones import captions, close, errors, float64, same_gradients, shaken  # noqa: F401

TINY = {"width": 16, "depth": 2, "heads": 2, "vocab_size": 600}


def naive_bert(tower, ids):
    p = dict(tower.named_parameters())

    def norm(x, name):
        return F.layer_norm(x, x.shape[1:], p[name + ".weight"], p[name + ".bias"], 1e-12)

    def linear(x, name):
        return F.linear(x, p[name + ".weight"], p[name + ".bias"])

    x = norm(p["token_embedding.weight"][ids] + p["positional_embedding"][: len(ids)], "norm")
    for i in range(2):
        b = f"blocks.{i}."
        qkv = linear(x, b + "attn.qkv").chunk(3, dim=1)
        q, k, v = (t.view(len(x), 2, 8).transpose(0, 1) for t in qkv)
        y = (q @ k.mT / 8**0.5).softmax(2) @ v
        x = norm(x + linear(y.transpose(0, 1).flatten(1), b + "attn.proj"), b + "norm1")
        x = norm(x + linear(F.gelu(linear(x, b + "mlp.fc1")), b + "mlp.fc2"), b + "norm2")
    return {"cls": lambda: linear(x[0], "pooler").tanh(), "mean": lambda: x.mean(0)}[
        tower.pool
    ](), x


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_bert_equals_one_caption_at_a_time(pool):
    tower = shaken(BERT(**TINY, pool=pool))
    lengths = [[20, 3, 77, 8], [41, 5], [19, 19]]
    segments = [captions(counts, 77) for counts in lengths]
    losses = [0, 0]
    for seg, encoding, counts in zip(segments, tower(segments), lengths, strict=True):
        for row, count in enumerate(counts):
            pooled, tokens = naive_bert(tower, seg.part.data[row, :count])
            close(encoding.pooled[row], pooled)
            close(encoding.tokens[row, :count], tokens)
            weight = torch.randn_like(tokens)
            losses[0] += encoding.pooled[row].square().sum()
            losses[0] += (encoding.tokens[row, :count] * weight).sum()
            losses[1] += pooled.square().sum() + (tokens * weight).sum()
    same_gradients(tower, losses)


@pytest.mark.parametrize("arch, count", [("base", 109_482_240), ("large", 335_141_888)])
def test_bert_has_as_many_parameters_as_published(arch, count):
    with torch.device("meta"):
        tower = BERT(arch)
    # The published one has 30,522 words, 512 positions and 2 kinds of sentences.
    rows = 30522 - 49409 + 512 - 77 + 2
    assert sum(p.numel() for p in tower.parameters()) + rows * tower.width == count


def test_bert_errors_name_the_argument():
    errors(
        [
            (lambda: BERT("bsae"), "arch='bsae'.*'base'"),
            (lambda: BERT(width=16), "width=16.*heads=12"),
            (lambda: BERT(pool="max"), "pool='max'"),
        ]
    )
