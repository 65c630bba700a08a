"""SyncBatchNorm: two ranks equal one process on the joined batch."""

import socket

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F

from webssl_toolbox import dist
from webssl_toolbox.norm import SyncBatchNorm, build_norm

SHAPES = [((5, 3), (2, 3)), ((4, 3, 2, 5), (1, 3, 2, 5))]  # two ranks, unequal on purpose


def batch(shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    # A mean far from zero: sums of squares would lose the variance.
    return [torch.randn(s, generator=generator, dtype=dtype) * 3 + 1000 for s in shapes]


def step(norm, x, weight):
    """Two training steps, so that running statistics and gradients accumulate."""
    x.requires_grad_()
    for _ in range(2):
        y = norm(x)
        (y.sin() * weight).sum().backward()
    return y.detach()


def run_rank(rank, port, results):
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for i, shapes in enumerate(SHAPES):
        x, weight = batch(shapes)[rank], batch(shapes)[rank] - 1000
        norm = SyncBatchNorm(3).double()
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        y = step(norm, x, weight)
        grads = [dist.all_sum(p.grad) for p in norm.parameters()]
        buffers = [norm.running_mean, norm.running_var]
        results[i, rank] = [t.numpy() for t in (y, x.grad, *grads, *buffers)]
    low = SyncBatchNorm(3)(batch(SHAPES[0], torch.float32)[rank].bfloat16())
    assert low.dtype == torch.bfloat16
    dist.shutdown()


def test_two_ranks_equal_one():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(run_rank, (port, results), nprocs=2)
        results = dict(results)
    for i, shapes in enumerate(SHAPES):
        x = torch.cat(batch(shapes))
        norm = torch.nn.BatchNorm1d(3) if x.dim() == 2 else torch.nn.BatchNorm2d(3)
        norm.double()
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        y = step(norm, x, x.detach() - 1000)
        ranks = [[torch.from_numpy(t) for t in results[i, rank]] for rank in (0, 1)]
        joined = [torch.cat(pair) for pair in zip(ranks[0][:2], ranks[1][:2])]
        for rank in ranks:
            got = [*joined, *rank[2:]]
            want = [y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean]
            for a, b in zip(got, [*want, norm.running_var], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5, 2)])
def test_one_rank_is_plain_batch_norm(shape, affine):
    ours, mean, var = SyncBatchNorm(4, affine=affine), torch.zeros(4), torch.ones(4)
    x = torch.randn(shape)
    want = F.batch_norm(x, mean, var, ours.weight, ours.bias, True, ours.momentum, ours.eps)
    assert torch.equal(ours(x), want)
    assert torch.equal(ours.running_mean, mean) and torch.equal(ours.running_var, var)
    ours.eval()
    want = F.batch_norm(x, mean, var, ours.weight, ours.bias, False, 0.1, ours.eps)
    assert torch.equal(ours(x), want)


def test_build_norm_errors_name_the_argument():
    assert isinstance(build_norm("BN", 4), torch.nn.BatchNorm2d)
    assert isinstance(build_norm("SyncBN", 4), SyncBatchNorm)
    with pytest.raises(ValueError, match="norm='GN'"):
        build_norm("GN", 4)
