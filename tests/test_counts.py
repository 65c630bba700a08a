"""Gates on the work of a training step: counts, which no load of the machine changes.

The limits are those of docs/performance.md: what was counted, and a little room. Models are the
benchmark's own, at full size, for two rows: the ratio of FLOPs hardly depends on the batch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tools import benchmark

ROWS = 2
# Of a step: FLOPs over the bound's, and calls of ATen.
FLOPS = dict(
    clip=0.83, declip=0.86, declip_clean=0.80, simsiam=1.04, slip=0.96, mae=1.02, dino=1.02
)
CALLS = dict(
    clip=1640, declip=2140, declip_clean=2140, simsiam=1520, slip=1820, mae=1570, dino=2340
)
each = pytest.mark.parametrize("method", benchmark.METHODS)
# What makes the host wait for the device: a read, or a result whose size depends on values.
SYNCS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero"}


class Shapes(benchmark.Operations):
    """Also remembers the shapes of each matrix product."""

    def __init__(self):
        super().__init__()
        self.products = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm"):
            self.products.append([tuple(x.shape) for x in args if isinstance(x, torch.Tensor)])
        return super().__torch_dispatch__(func, types, args, kwargs)

    def products_with(self, size):
        return [shapes for shapes in self.products if any(size in shape for shape in shapes)]


@dataclass
class Counted:
    flops: int  # of ours
    bound: int  # FLOPs of the bound
    towers_flops: dict  # of the forward, by tower
    operations: Shapes
    tower_calls: Counter
    towers: list


@cache
def counted(name):
    method = replace(benchmark.METHODS[name], batch=ROWS)
    device = torch.device("cpu")
    with FlopCounterMode(display=False) as bound:
        benchmark.bound(method, device)()
    step, model = benchmark.ours(method, device)
    with FlopCounterMode(display=False) as flops:
        step()  # the first; the optimizer has state from then on
    calls = Counter()
    for tower in model.towers:
        model.towers[tower].register_forward_hook(lambda *_, tower=tower: calls.update([tower]))
    with Shapes() as operations:
        step()
    by_module = flops.get_flop_counts()
    towers = {name: sum(by_module[f"Pretrainer.towers.{name}"].values()) for name in model.towers}
    flops, bound = flops.get_total_flops(), bound.get_total_flops()
    return Counted(flops, bound, towers, operations, calls, list(model.towers))


@each
def test_flops_of_a_step(method):
    ratio = counted(method).flops / counted(method).bound
    assert ratio <= FLOPS[method], f"{ratio:.4f} of the bare towers' FLOPs"


@each
def test_aten_calls_of_a_step(method):
    calls = counted(method).operations.calls
    assert calls.total() <= CALLS[method], calls.most_common(20)


@each
def test_each_tower_is_called_once(method):
    assert counted(method).tower_calls == Counter(counted(method).towers)


@each
def test_the_host_never_waits(method):
    names = {name.split(".")[1] for name in counted(method).operations.calls}
    assert not names & SYNCS


def test_waiting_would_be_seen():
    with Shapes() as operations:
        torch.ones(3).sum().item()
    assert {name.split(".")[1] for name in operations.calls} & SYNCS


@pytest.mark.parametrize("method", ["declip", "declip_clean"])
def test_the_vocabulary_is_scored_at_hidden_tokens_only(method):
    hidden = ROWS * round(benchmark.HIDDEN * (benchmark.CAPTION - 2))
    products = counted(method).operations.products_with(49409)
    assert len(products) == 3  # logits, and the gradients of weights and tokens
    for shapes in products:
        assert any(hidden in shape for shape in shapes), shapes


@pytest.mark.parametrize("method", ["declip", "declip_clean"])
def test_a_queue_is_searched_once(method):
    size = benchmark.DECLIP["nn_queue"]["size"]
    assert len(counted(method).operations.products_with(size)) == 1


def test_views_of_one_size_share_the_convolutions():
    calls = counted("simsiam").operations.calls
    assert calls["aten.convolution.default"] == 55  # those of one RN50 with CLIP's stem
    assert calls["aten.native_batch_norm.default"] == 2 * (55 + 4)  # each view its own, heads too


def test_three_views_of_slip_share_each_matrix_product():
    tokens = 3 * ROWS * (1 + 36)
    products = counted("slip").operations.products_with(tokens)
    assert len(products) == 12 * 4 * 3  # blocks; layers; forward, gradients of weights and tokens


def test_mae_encodes_kept_patches_only():
    tokens, width = 1 + 36 // 4, 384
    patches = 2 * (tokens - 1) * 3 * 16**2 * width
    attention = 4 * tokens**2 * width  # which is not counted on a CPU, at least by torch 2.13
    blocks = 12 * (24 * tokens * width**2 + attention)
    assert counted("mae").towers_flops["image"] <= ROWS * (patches + blocks)
