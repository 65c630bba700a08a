"""CLIP's modified ResNet against OpenAI's forward, in float64."""

import pytest
import torch
import torch.nn.functional as F

from webssl_plugins.backbones.clip_resnet import CLIPResNet
from webssl_toolbox.objective import Need

from .test_backbones import close, errors, float64, same_gradients, segment, shaken  # noqa: F401


def naive_resnet(net, x):
    """OpenAI's forward, with the whole attention of which it keeps one token."""
    p = dict(net.named_parameters())

    def bn(x, name):
        return F.batch_norm(x, None, None, p[name + ".weight"], p[name + ".bias"], training=True)

    for i, stride in ((1, 2), (2, 1), (3, 1)):
        x = F.conv2d(x, p[f"conv{i}.weight"], stride=stride, padding=1)
        x = F.relu(bn(x, f"bn{i}"))
    x = F.avg_pool2d(x, 2)
    for stage in (1, 2, 3, 4):
        for block in range(len(net.get_submodule(f"layer{stage}"))):
            b = f"layer{stage}.{block}."
            y = F.relu(bn(F.conv2d(x, p[b + "conv1.weight"]), b + "bn1"))
            y = F.relu(bn(F.conv2d(y, p[b + "conv2.weight"], padding=1), b + "bn2"))
            stride = 2 if stage > 1 and block == 0 else 1
            y = bn(F.conv2d(F.avg_pool2d(y, stride), p[b + "conv3.weight"]), b + "bn3")
            if b + "downsample.0.weight" in p:
                x = F.conv2d(F.avg_pool2d(x, stride), p[b + "downsample.0.weight"])
                x = bn(x, b + "downsample.1")
            x = F.relu(x + y)
    tokens = x.flatten(2).permute(2, 0, 1)
    if net.attnpool is None:
        return tokens.mean(0), tokens.transpose(0, 1)
    q = torch.cat([tokens.mean(0, keepdim=True), tokens])
    q = q + p["attnpool.positional_embedding"][:, None]
    weights, biases = ([p[f"attnpool.{n}_proj.{k}"] for n in "qkvc"] for k in ("weight", "bias"))
    pooled, _ = F.multi_head_attention_forward(
        *(q, q, q, q.shape[2], net.attnpool.heads, None, torch.cat(biases[:3]), None, None, False),
        *(0.0, weights[3], biases[3]),
        use_separate_proj_weight=True,
        **dict(zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), weights)),
    )
    return pooled[0], tokens.transpose(0, 1)


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
@pytest.mark.parametrize("size, pool", [(32, "attention"), (64, "attention"), (64, "mean")])
def test_resnet_equals_openais(norm, size, pool):
    out = {"heads": 2, "out_width": 12} if pool == "attention" else {}
    net = shaken(CLIPResNet("50", (1, 2, 1, 1), 4, size, norm=norm, pool=pool, **out))
    views = [torch.randn(3, 3, size, size), torch.randn(2, 3, size, size)]
    got = net([segment(view) for view in views])
    want = [naive_resnet(net, view) for view in views]
    losses = [0, 0]
    for encoding, pair in zip(got, want, strict=True):
        assert encoding.pooled.shape[1] == net.width and encoding.tokens.shape[2] == 128
        close(encoding.pooled, pair[0])
        close(encoding.tokens, pair[1])
        weight = torch.randn_like(pair[0])
        losses[0] += (encoding.pooled * weight).sum() + encoding.tokens.square().sum()
        losses[1] += (pair[0] * weight).sum() + pair[1].square().sum()
    same_gradients(net, losses, 1e-7)


@pytest.mark.parametrize(
    "arch, size, width, count",
    [
        ("50", 224, 1024, 38_316_896),
        ("101", 224, 512, 56_259_936),
        ("50x4", 288, 640, 87_137_080),
        ("50x16", 384, 768, 167_328_912),
        ("50x64", 448, 1024, 420_380_352),
    ],
)
def test_resnet_has_the_sizes_that_openai_published(arch, size, width, count):
    with torch.device("meta"):
        net = CLIPResNet(arch)
    assert (net.input_size, net.width) == (size, width)
    assert sum(p.numel() for p in net.parameters()) == count


def test_resnet_takes_from_its_arch_what_is_not_given():
    with torch.device("meta"):
        net = CLIPResNet("50x4", depths=(1, 1, 1, 1), width=8, input_size=32)
        assert (net.width, net.attnpool.heads, len(net.layer3)) == (256, 4, 1)
        assert CLIPResNet("50x4", width=8, out_width=12).width == 12
        assert CLIPResNet("50x4", pool="mean").width == 2560


def test_resnet_names_sizes_and_errors():
    net = CLIPResNet("50", (1, 1, 1, 1), 4, 64, heads=2)
    names = set(net.state_dict())
    assert {"conv1.weight", "bn3.weight", "layer1.0.downsample.0.weight"} <= names
    assert {"layer2.0.downsample.1.running_var", "attnpool.positional_embedding"} <= names
    assert net.attnpool.positional_embedding.shape == (5, 128)
    assert not net.layer1[0].bn3.weight.any()
    (encoding,) = net([segment(torch.randn(2, 3, 96, 128))])
    assert encoding.tokens.shape == (2, 12, 128) and encoding.pooled.shape == (2, 128)
    encoding.pooled.sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    errors(
        [
            (lambda: net.plan(frozenset({Need("image", "v", keep="k")})), "cannot keep"),
            (lambda: CLIPResNet("50x46"), "arch='50x46'.*'50x4'"),
            (lambda: CLIPResNet(pool="max"), "pool='max'"),
            (lambda: CLIPResNet(norm="LN"), "norm='LN'"),
            (lambda: CLIPResNet(heads=3), "heads=3"),
            (lambda: CLIPResNet(pool="mean", heads=3), "leave them out"),
            (lambda: CLIPResNet(input_size=16), "input_size=16"),
        ]
    )
