"""RegNetY against a plain forward, in float64."""

import pytest
import torch
import torch.nn.functional as F

from webssl_plugins.backbones.regnet import RegNetY
from webssl_toolbox.objective import Need

from .test_backbones import close, errors, float64, same_gradients, segment, shaken  # noqa: F401

TINY = {"depths": (1, 2, 1, 1), "widths": (8, 16, 24, 24), "group_width": 8, "input_size": 64}


def naive_regnet(net, x):
    p = dict(net.named_parameters())

    def conv(x, name, stride=1, groups=1):
        weight = p[name + ".conv.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2, groups=groups)
        scale = (p[name + ".bn.weight"], p[name + ".bn.bias"])
        return F.batch_norm(x, None, None, *scale, training=True)

    x = F.relu(conv(x, "stem", 2))
    for stage, (depth, width) in enumerate(zip(TINY["depths"], TINY["widths"]), 1):
        for i in range(1, depth + 1):
            b = f"s{stage}.b{i}."
            stride = 2 if i == 1 else 1
            y = F.relu(conv(x, b + "conv1"))
            y = F.relu(conv(y, b + "conv2", stride, width // 8))
            squeezed = y.mean((2, 3))
            for layer, act in (("fc1", F.relu), ("fc2", torch.sigmoid)):
                weight = p[f"{b}se.{layer}.weight"].flatten(1)
                squeezed = act(F.linear(squeezed, weight, p[f"{b}se.{layer}.bias"]))
            y = conv(y * squeezed[..., None, None], b + "conv3")
            if b + "downsample.conv.weight" in p:
                x = conv(x, b + "downsample", stride)
            x = F.relu(x + y)
    return x.mean((2, 3)), x.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
@pytest.mark.parametrize("sizes", [(64, 64), (64, 96)])
def test_regnet_equals_a_plain_one_view_by_view(norm, sizes):
    net = shaken(RegNetY(**TINY, norm=norm))
    views = [torch.randn(rows, 3, size, 64) for rows, size in zip((3, 2), sizes)]
    losses = [0, 0]
    got = net([segment(view) for view in views])
    for encoding, view in zip(got, views, strict=True):
        pooled, tokens = naive_regnet(net, view)
        close(encoding.pooled, pooled)
        close(encoding.tokens, tokens)
        weight = torch.randn_like(pooled)
        losses[0] += (encoding.pooled * weight).sum() + encoding.tokens.square().sum()
        losses[1] += (pooled * weight).sum() + tokens.square().sum()
    same_gradients(net, losses, 1e-7)


@pytest.mark.parametrize(
    "arch, count",
    [
        ("400MF", 4_344_144),
        ("1.6GF", 11_202_430),
        ("16GF", 83_590_140),
        ("32GF", 145_046_770),
        ("64GF", 281_378_786),
    ],
)
def test_regnet_has_as_many_parameters_as_published_with_a_classifier(arch, count):
    with torch.device("meta"):
        net = RegNetY(arch)
    assert sum(p.numel() for p in net.parameters()) + 1000 * (net.width + 1) == count


def test_regnet_errors_name_the_argument():
    net = RegNetY(**TINY)
    errors(
        [
            (lambda: net.plan(frozenset({Need("image", "v", keep="k")})), "cannot keep"),
            (lambda: RegNetY("64MF"), "arch='64MF'.*64GF"),
            (lambda: RegNetY(**TINY | {"group_width": 5}), "group_width=5"),
            (lambda: RegNetY(depths=(1, 1)), "depths=.*widths="),
            (lambda: RegNetY(norm="LN"), "norm='LN'"),
        ]
    )
