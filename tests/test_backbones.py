"""The towers against plain implementations of the same functions, in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from webssl_plugins.backbones._captions import length_buckets
from webssl_plugins.backbones._common import sincos_positions
from webssl_plugins.backbones.text_transformer import TextTransformer
from webssl_plugins.backbones.vit import ViT
from webssl_toolbox.objective import Need
from webssl_toolbox.towers import Part, Segment

TINY = {"patch_size": 4, "width": 24, "depth": 2, "heads": 3, "input_size": 16}
MASKED = frozenset({Need("image", "v", mask="m")})


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


class Ops(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def segment(data, length=None, keep=None, mask=None):
    names = (None if keep is None else "k", None if mask is None else "m")
    return Segment(Need("tower", "v", *names), (Part("v", data, length, keep, mask),))


def shaken(module):
    """No parameter at a special value: zeros and ones hide errors."""
    for param in module.parameters():
        if param.requires_grad:
            nn.init.normal_(param, std=0.3)
    return module


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def subset(rows, total, kept):
    return torch.stack([torch.randperm(total)[:kept].sort().values for _ in range(rows)])


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def same_gradients(module, losses, tolerance=1e-9):
    params = [p for p in module.parameters() if p.requires_grad]
    close(*(torch.autograd.grad(loss, params) for loss in losses), tolerance)


def errors(cases):
    for call, match in cases:
        with pytest.raises(ValueError, match=match):
            call()


def naive_quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def naive_blocks(p, x, heads, eps, act=F.gelu, mask=None):
    """``x [L, width]``: one sequence, textbook attention."""
    width = x.shape[1]

    def norm(x, name):
        return F.layer_norm(x, (width,), p[name + ".weight"], p[name + ".bias"], eps)

    def linear(x, name):
        return x @ p[name + ".weight"].T + p.get(name + ".bias", 0)

    for i in range(1 + max(int(k.split(".")[1]) for k in p if k.startswith("blocks."))):
        b = f"blocks.{i}."
        qkv = linear(norm(x, b + "norm1"), b + "attn.qkv").chunk(3, dim=1)
        q, k, v = (t.view(len(x), heads, -1).transpose(0, 1) for t in qkv)
        logits = q @ k.transpose(1, 2) / math.sqrt(width / heads)
        logits = logits if mask is None else logits + mask
        y = linear((logits.softmax(2) @ v).transpose(0, 1).flatten(1), b + "attn.proj")
        x = x + y * p.get(b + "ls1.gamma", 1)
        h = linear(norm(x, b + "norm2"), b + "mlp.fc1")
        if h.shape[1] == p[b + "mlp.fc2.weight"].shape[1]:
            h = act(h)
        else:
            h = F.silu(h.chunk(2, 1)[0]) * h.chunk(2, 1)[1]
        x = x + linear(h, b + "mlp.fc2") * p.get(b + "ls2.gamma", 1)
    return x


def naive_vit(vit, image, keep=None, mask=None):
    """One image, by a convolution and in the order of DINOv2."""
    p = dict(vit.named_parameters())
    weight = p["patch_embed.proj.weight"]
    x = F.conv2d(image[None], weight, p["patch_embed.proj.bias"], stride=vit.patch_size)
    height, width = x.shape[2:]
    x = x.flatten(2)[0].T
    if mask is not None:
        x = torch.stack([p["mask_token"][0] if m else t for m, t in zip(mask, x)])
    prefix = int("cls_token" in p)
    grid = p["pos_embed"][0, prefix:]
    side = math.isqrt(len(grid))
    if (height, width) != (side, side):
        grid = grid.view(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (height, width), mode="bicubic", antialias=True)
        grid = grid[0].permute(1, 2, 0).flatten(0, 1)
    x = x + grid
    x = x if keep is None else x[keep]
    head = [p["cls_token"][0] + p["pos_embed"][0, :1]] if prefix else []
    head += [p["reg_token"][0]] if "reg_token" in p else []
    x = torch.cat([*head, x])
    act = F.gelu
    if "norm_pre.weight" in p:
        x = F.layer_norm(x, x.shape[1:], p["norm_pre.weight"], p["norm_pre.bias"], 1e-6)
        act = naive_quick_gelu
    x = naive_blocks(p, x, 3, 1e-6, act)
    x = F.layer_norm(x, x.shape[1:], p["norm.weight"], p["norm.bias"], 1e-6)
    tokens = x[len(torch.cat(head)) if head else 0 :]
    return (x[0] if vit.pool == "cls" else tokens.mean(0)), tokens


def check_vit(vit, segments):
    got = vit(segments)
    losses = [0, 0]
    for seg, encoding in zip(segments, got, strict=True):
        part = seg.part
        none = [None] * seg.rows
        keep = none if part.keep is None else part.keep
        mask = none if part.mask is None else part.mask
        rows = [naive_vit(vit, *row) for row in zip(part.data, keep, mask, strict=True)]
        pooled, tokens = (torch.stack(t) for t in zip(*rows))
        close(encoding.pooled, pooled)
        close(encoding.tokens, tokens)
        weight = torch.randn_like(tokens)
        losses[0] += encoding.pooled.square().sum() + (encoding.tokens * weight).sum()
        losses[1] += pooled.square().sum() + (tokens * weight).sum()
    same_gradients(vit, losses)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"registers": 2, "layer_scale": 0.1},
        {"ffn": "swiglu", "qkv_bias": False},
        {"pool": "mean", "class_token": False},
        {"pool": "mean", "positions": "sincos"},
        {"pre_norm": True, "activation": "quick_gelu"},
    ],
)
def test_vit_packs_every_kind_of_view_and_equals_a_plain_one(options):
    vit = ViT(**TINY, **options)
    vit.plan(MASKED)
    shaken(vit)
    check_vit(
        vit,
        [
            segment(torch.randn(2, 3, 16, 16)),
            segment(torch.randn(3, 3, 8, 8)),
            segment(torch.randn(2, 3, 16, 16), mask=torch.rand(2, 16) < 0.4),
            segment(torch.randn(2, 3, 16, 16), keep=subset(2, 16, 5)),
            segment(torch.randn(1, 3, 8, 20)),
            segment(torch.randn(2, 3, 16, 16), keep=subset(2, 16, 5), mask=torch.rand(2, 16) < 0.4),
        ],
    )


def test_vit_runs_each_block_once_and_the_same_ops_for_any_number_of_views():
    vit = ViT(**TINY)
    calls = count_calls(vit.blocks[0])
    views = [segment(torch.randn(2, 3, 16, 16)) for _ in range(6)]
    counts = {}
    for number in (2, 6):
        with Ops() as ops:
            sum(e.pooled.sum() for e in vit(views[:number])).backward()
        counts[number] = ops.count
    assert len(calls) == 2
    # What is left grows with the losses of this test: a sum, an addition, their gradients.
    assert counts[6] - counts[2] <= 4 * 6
    vit([views[0], segment(torch.randn(2, 3, 8, 8)), views[1]])
    assert len(calls) == 3


def test_vit_creates_no_parameter_without_a_gradient():
    vit = ViT(**TINY, registers=1, layer_scale=0.1, positions="sincos")
    assert vit.mask_token is None
    vit.plan(MASKED)
    (encoding,) = vit([segment(torch.randn(2, 3, 16, 16), mask=torch.rand(2, 16) < 0.5)])
    encoding.pooled.sum().backward()
    assert [n for n, p in vit.named_parameters() if p.grad is None] == ["pos_embed"]
    assert not vit.pos_embed.requires_grad


def test_a_frozen_patch_projection_is_random_and_stays():
    vit = ViT(**TINY, freeze_patch_embed=True)
    frozen = [n for n, p in vit.named_parameters() if not p.requires_grad]
    assert frozen == ["patch_embed.proj.weight", "patch_embed.proj.bias"]
    assert vit.patch_embed.proj.weight.std() > 0.05 and not vit.patch_embed.proj.bias.any()


@pytest.mark.parametrize(
    "arch, patch, count",
    [
        ("Ti", 16, 5_717_416),
        ("S", 16, 22_050_664),
        ("B", 32, 88_224_232),
        ("L", 16, 304_326_632),
        ("H", 14, 632_045_800),
        ("g", 14, 1_012_611_432),
        ("G", 14, 1_844_440_680),
    ],
)
def test_vit_has_as_many_parameters_as_published_with_a_classifier(arch, patch, count):
    with torch.device("meta"):
        vit = ViT(arch, patch)
    assert sum(p.numel() for p in vit.parameters()) + 1000 * (vit.width + 1) == count


def test_dinov2s_giant_has_as_many_parameters_as_published():
    with torch.device("meta"):
        vit = ViT("g-dinov2", 14, input_size=518, layer_scale=1e-5)
        vit.plan(MASKED)
    assert sum(p.numel() for p in vit.parameters()) == 1_136_480_768


def test_sincos_positions_equal_the_formula_of_mae():
    grid = sincos_positions(3, 5, 12)
    for row in range(3):
        for column in range(5):
            want = []
            for position in (column, row):  # the column comes first
                angles = [position / 10000 ** (i / 3) for i in range(3)]
                want += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            close(grid[row * 5 + column], torch.tensor(want))
    vit = ViT(**TINY, positions="sincos")
    close(vit.pos_embed[0], torch.cat([torch.zeros(1, 24), sincos_positions(4, 4, 24)]))


def test_vit_errors_name_the_argument():
    vit = ViT(**TINY)
    assert (vit.num_patches(), vit.num_patches(8)) == (16, 4)
    errors(
        [
            (lambda: vit.plan(frozenset({Need("image", ("a", "b"))})), "fusion tower"),
            (lambda: vit([segment(torch.randn(1, 3, 18, 16))]), "18 x 16.*patch_size=4"),
            (lambda: vit([segment(torch.randn(1, 3, 8, 8), mask=torch.ones(1, 4) > 0)]), "plan"),
            (lambda: ViT("XL"), "arch='XL'.*'L'"),
            (lambda: ViT(input_size=100), "input_size"),
            (lambda: ViT(class_token=False), "pool='mean'"),
            (lambda: ViT(heads=7), "heads=7"),
            (lambda: ViT(ffn="glu"), "ffn='glu'"),
            (lambda: ViT(activation="relu"), "activation='relu'"),
            (lambda: ViT(width=6, heads=1, positions="sincos"), "divisible by 4"),
        ]
    )


def text_tower(**options):
    options = {"width": 16, "depth": 2, "heads": 2, "vocab_size": 600, **options}
    return shaken(TextTransformer(**options))


def captions(lengths, columns):
    return segment(torch.randint(50, (len(lengths), columns)), torch.tensor(lengths))


def naive_text(tower, ids):
    p = dict(tower.named_parameters())
    x = p["token_embedding.weight"][ids] + p["positional_embedding"][: len(ids)]
    mask = torch.full((len(ids), len(ids)), -torch.inf).triu(1) if tower.causal else None
    x = naive_blocks(p, x, 2, 1e-5, naive_quick_gelu, mask)
    x = F.layer_norm(x, x.shape[1:], p["ln_final.weight"], p["ln_final.bias"])
    return {"eot": x[-1], "cls": x[0], "mean": x.mean(0)}[tower.pool], x


@pytest.mark.parametrize("pool", ["eot", "mean", "cls", "causal eot", "causal mean"])
@pytest.mark.parametrize(
    "lengths, buckets",
    [([[5, 5, 5]], 1), ([[3, 6, 2], [7]], 1), ([[20, 3, 77, 8], [41, 5], [19, 19, 33]], 4)],
)
def test_text_equals_one_caption_at_a_time(pool, lengths, buckets):
    tower = text_tower(causal="causal" in pool, pool=pool.split()[-1])
    assert len(length_buckets(np.concatenate(lengths))) == buckets
    segments = [captions(n, min(77, max(n) + 3 * i)) for i, n in enumerate(lengths)]
    calls = count_calls(tower.blocks[0])
    losses = [0, 0]
    for seg, encoding, counts in zip(segments, tower(segments), lengths, strict=True):
        assert encoding.tokens.shape == (len(counts), max(counts), 16)
        assert (encoding.valid is None) == (len(set(counts)) == 1)
        for row, count in enumerate(counts):
            pooled, tokens = naive_text(tower, seg.part.data[row, :count])
            close(encoding.pooled[row], pooled)
            close(encoding.tokens[row, :count], tokens)
            if encoding.valid is not None:
                assert encoding.valid[row].tolist() == [i < count for i in range(max(counts))]
            weight = torch.randn_like(tokens)
            losses[0] += encoding.pooled[row].square().sum()
            losses[0] += (encoding.tokens[row, :count] * weight).sum()
            losses[1] += pooled.square().sum() + (tokens * weight).sum()
    assert len(calls) == 1
    same_gradients(tower, losses)


def test_text_buckets_save_padding_and_stay_few():
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = rng.integers(1, 78, size=rng.integers(1, 60))
        buckets = length_buckets(lengths)
        assert len(buckets) <= 4
        assert sorted(np.concatenate(buckets).tolist()) == list(range(len(lengths)))
        assert sum(len(b) * lengths[b].max() for b in buckets) <= len(lengths) * lengths.max()
    lengths = rng.integers(8, 78, size=256)
    packed = sum(len(b) * lengths[b].max() for b in length_buckets(lengths))
    assert packed < 1.25 * lengths.sum() < 0.75 * 256 * 77


def test_captions_of_equal_length_cost_no_more_ops_than_plain_blocks():
    tower = text_tower()
    with Ops() as many:
        tower([captions([9, 9], 77), captions([9, 9, 9], 20), captions([9], 9)])
    with Ops() as one:
        tower([captions([9, 9, 9, 9, 9, 9], 9)])
    assert many.count - one.count <= 5 * 2  # views of the ids, for two more segments


def test_text_errors_name_the_argument():
    tower = text_tower(context_length=8)
    errors(
        [
            (lambda: tower([segment(torch.ones(1, 4, dtype=torch.long))]), "length"),
            (lambda: tower([captions([9], 9)]), "context_length=8"),
            (lambda: tower([captions([0, 2], 4)]), "0 to 2"),
            (lambda: tower.plan(frozenset({Need("text", "t", mask="m")})), "mask"),
            (lambda: tower.plan(frozenset({Need("text", ("t", "u"))})), "fusion tower"),
            (lambda: text_tower(pool="max"), "pool='max'"),
            (lambda: text_tower(pool="cls"), "causal=False"),
            (lambda: text_tower(activation="relu"), "activation='relu'"),
        ]
    )
    assert TextTransformer(width=8, depth=1, heads=1).token_embedding.num_embeddings == 49409
