"""Many crops in one pass of a ViT, and what makes that pass cheaper: drop path, recomputation."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from webssl_plugins.backbones._common import Block, Group
from webssl_plugins.backbones.vit import ViT
from webssl_toolbox.compat import data_parallel
from webssl_toolbox.engine.dry_run import build_on_meta
from webssl_toolbox.objective import Need, Progress
from webssl_toolbox.registry import MODELS
from webssl_toolbox.testing import Case, inputs
from webssl_toolbox.towers import Part, Segment

TINY = {"patch_size": 4, "width": 24, "depth": 2, "heads": 3, "input_size": 16, "layer_scale": 0.1}
MASKED = frozenset({Need("image", "g", mask="m")})


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def vit(dtype=torch.float64, **options):
    """No parameter at a special value: zeros and ones hide errors."""
    tower = ViT(**TINY | options)
    tower.plan(MASKED)
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.3)
    return tower.to(dtype)


def crop(size, dtype=torch.float64, masked=False, rows=4):
    mask = torch.rand(rows, size**2 // 16) < 0.4 if masked else None
    need = Need("image", "v", mask="m" if masked else None)
    return Segment(need, (Part("v", torch.randn(rows, 3, size, size, dtype=dtype), mask=mask),))


def crops(dtype=torch.float64):
    """Two masked global crops, local ones of two other sizes."""
    sizes = [(16, True), (16, True), (8, False), (12, False), (8, False)]
    return [crop(size, dtype, masked) for size, masked in sizes]


def outcome(tower, passes, seed=1):
    """All encodings of some passes, and the gradients of a loss of theirs."""
    torch.manual_seed(seed)
    encodings = [encoding for segments in passes for encoding in tower(segments)]
    values = [value for e in encodings for value in (e.pooled, e.tokens)]
    loss = sum(value.sin().sum() for value in values)
    return values, torch.autograd.grad(loss, list(tower.parameters()))


def same(first, second, tolerance):
    for a, b in zip([*first[0], *first[1]], [*second[0], *second[1]], strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_one_pass_over_all_crops_equals_a_pass_for_each(dtype, tolerance):
    tower, views, calls = vit(dtype, registers=2), crops(dtype), []
    tower.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    packed = outcome(tower, [views])
    assert len(calls) == 1
    same(packed, outcome(tower, [[view] for view in views]), tolerance)
    assert len(calls) == 1 + len(views)


# -- drop path -----------------------------------------------------------------------------------

LAYOUT = (
    Group(10, 3),
    Group(5, 4, mask=torch.arange(4).expand(5, 1, 1, 4) <= torch.arange(5)[:, None, None, None]),
)


def attention_alone(layer_scale=None):
    """A block whose second branch adds nothing, and a stream for it."""
    block = Block(12, 3, layer_scale=layer_scale).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    for parameter in block.mlp.fc2.parameters():
        nn.init.zeros_(parameter)
    return block, torch.randn(50, 12, dtype=torch.float64)


def by_row(stream):
    return [*stream[:30].view(10, -1), *stream[30:].view(5, -1)]


@pytest.mark.parametrize("layer_scale", [None, 0.5])
def test_drop_path_adds_the_branch_to_some_rows_of_each_group_and_keeps_the_mean(layer_scale):
    block, x = attention_alone(layer_scale)
    with torch.no_grad():
        whole = by_row(block(x, LAYOUT) - x)
        block.drop_path = 0.3  # 7 of 10 rows, and round(3.5) = 4 of 5
        total, draws = torch.zeros_like(x), 400
        for _ in range(draws):
            added = block(x, LAYOUT) - x
            total += added
            rows = by_row(added)
            kept = [bool(row.any()) for row in rows]
            assert (sum(kept[:10]), sum(kept[10:])) == (7, 4)
            for i, row in enumerate(rows):
                scale = kept[i] * (10 / 7 if i < 10 else 5 / 4)
                torch.testing.assert_close(row, whole[i] * scale)
        for mean, row in zip(by_row(total / draws), whole, strict=True):
            torch.testing.assert_close(mean, row, rtol=0.15, atol=0)  # 4 standard errors
        block.eval()
        for row, same_row in zip(by_row(block(x, LAYOUT) - x), whole, strict=True):
            torch.testing.assert_close(row, same_row)


def test_drop_path_has_the_gradient_of_the_rows_that_it_kept():
    block, x = attention_alone(0.5)
    block.drop_path = 0.5
    assert torch.autograd.gradcheck(lambda x: _seeded(block, x), x[:50].requires_grad_())


def _seeded(block, x):
    torch.manual_seed(3)
    return block(x, LAYOUT)


def flops(tower, segments):
    with FlopCounterMode(display=False) as counter:
        sum(encoding.pooled.sum() for encoding in tower(segments)).backward()
    return counter.get_flop_counts()["ViT.blocks.1"]


def test_drop_path_computes_only_what_it_keeps():
    views = [crop(16, rows=10), crop(8, rows=20)]
    whole, half = (flops(vit(drop_path=rate), views) for rate in (0.0, 0.5))
    assert sum(half.values()) == sum(whole.values()) / 2
    assert sum(flops(vit(drop_path=0.5).eval(), views).values()) == sum(whole.values())
    one = vit(drop_path=0.9)  # at least one row stays
    assert all(encoding.pooled.isfinite().all() for encoding in one([crop(16, rows=1)]))


def test_drop_path_grows_over_depth_or_is_uniform():
    rates = [block.drop_path for block in vit(depth=4, drop_path=0.3).blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    uniform = vit(depth=4, drop_path=0.3, drop_path_uniform=True)
    assert [block.drop_path for block in uniform.blocks] == [0.3] * 4
    with pytest.raises(ValueError, match=r"drop_path=1\.0.*below 1"):
        vit(drop_path=1.0)


def test_drop_path_in_bfloat16_keeps_the_stream_in_float32():
    tower = vit(torch.float32, drop_path=0.5, layer_scale=None)
    with torch.autocast("cpu", torch.bfloat16):
        tower([crop(16, torch.float32)])[0].pooled.sum().backward()
    assert all(p.grad.isfinite().all() for p in tower.parameters() if p.grad is not None)


# -- recomputation -------------------------------------------------------------------------------


def saved_bytes(tower, segments):
    """Bytes that the forward pass keeps for the backward pass, each storage once."""
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encodings = tower(segments)
        del encodings
    return sum(storages.values())


def test_recomputed_blocks_give_equal_values_and_gradients_with_drop_path():
    options = dict(drop_path=0.5, drop_path_uniform=True)
    plain, again = vit(**options), vit(**options, checkpoint=True)
    again.load_state_dict(plain.state_dict())
    views = crops()
    same(outcome(plain, [views]), outcome(again, [views]), 1e-12)
    with torch.no_grad():  # as a teacher
        assert torch.equal(plain.eval()(views)[0].pooled, again.eval()(views)[0].pooled)


def test_recomputed_blocks_keep_one_tensor_each():
    views, saved = crops(), {}
    for depth in (2, 6):
        for checkpoint in (False, True):
            tower = vit(depth=depth, checkpoint=checkpoint)
            saved[depth, checkpoint] = saved_bytes(tower, views)
    tokens = sum(view.rows * (1 + view.part.data[0, 0].numel() // 16) for view in views)
    stream = tokens * TINY["width"] * 8
    plain, again = ((saved[6, kind] - saved[2, kind]) / 4 for kind in (False, True))
    assert plain > 10 * stream and again == stream


# -- compilation ---------------------------------------------------------------------------------

DINO = dict(
    type="Pretrainer",
    towers=dict(
        image=dict(type="ViT", patch_size=8, width=16, depth=1, heads=2, input_size=16),
        image_ema=dict(type="EMA", of="towers.image", momentum=0.5),
    ),
    spaces=dict(
        proto=dict(type="Prototypes", count=12, hidden=10, layers=2, bottleneck=6),
        proto_ema=dict(type="EMA", of="spaces.proto", momentum=0.5),
    ),
    objectives=dict(dino=dict(type="DINO", locals=("l1",))),
)


def step(model, batch):
    losses, _ = model(batch)
    sum(losses.values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_compiled_towers_equal_eager_ones_under_the_same_names(monkeypatch, tmp_path):
    built, plain = [], nn.Module.compile

    def compile(module):  # without C++, which takes minutes
        built.append(module)
        plain(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile)
    eager, compiled = MODELS.build(DINO), MODELS.build(DINO | dict(compile=True))
    assert built == list(compiled.towers.values())
    build_on_meta(DINO | dict(compile=True))
    assert len(built) == 2, "a dry run does not compile"
    assert [*compiled.state_dict()] == [*eager.state_dict()]
    copied = copy.deepcopy(compiled.towers["image"])  # as an average copies its source
    assert copied._compiled_call_impl is None

    batch = inputs(eager, Case(DINO, sizes=dict(l1=8)))
    batch = {name: v.float() if v.is_floating_point() else v for name, v in batch.items()}
    expected = step(eager, batch)
    torch.testing.assert_close(step(compiled, batch), expected)
    rendezvous = f"file://{tmp_path}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    try:
        compiled.zero_grad()
        wrapped = step(data_parallel(compiled), batch)
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(wrapped, {f"module.{name}": grad for name, grad in expected.items()})
    for model in (eager, compiled):
        model.after_step(Progress(1, 10))
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict())
