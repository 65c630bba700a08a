"""Contrastive losses: against loops, by hand, in pieces, over ranks; their products and bytes."""

import math
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests import cases
from tests.plain import Setting, compare, mlp, nt_xent, sigmoid_loss, unit
from webssl_plugins.objectives import _common, siglip, simclr
from webssl_toolbox import dist, testing
from webssl_toolbox.spaces import JointSpace

torch.set_num_threads(1)

# -- the formulas --------------------------------------------------------------------------------


def test_simclr():
    setting = Setting("SimCLR", dim=4, hidden=3, temperature=0.3)
    views = [mlp(setting.objective.head, setting.encoding(v).pooled) for v in ("v1", "v2")]
    compare(setting, nt_xent(*([unit(row) for row in view] for view in views), 0.3))


def test_nt_xent_by_hand():
    """Two images, orthogonal, each seen twice alike, at temperature 0.5.

    Each of the four vectors has one partner at 1 / 0.5 = 2 and two others at 0. Its loss is
    log(e^2 + 1 + 1) - 2 = log(1 + 2 / 7.389056) = log(1.270671) = 0.239545.
    """
    views = torch.eye(2).expand(2, 2, 2)
    assert simclr.nt_xent(views, views, 0.5).item() == pytest.approx(0.239545, abs=1e-6)


def test_siglip():
    setting = Setting("SigLIP")
    pair = setting.embedded("v1"), setting.embedded("text")
    compare(setting, sigmoid_loss(*pair, setting.scale(), setting.objective.bias[0]))


def test_siglip_by_hand():
    """Two orthogonal pairs at the paper's first values, t = 10 and b = -10.

    A pair has the logit 10 - 10 = 0: log(1 + 1) = 0.693147. The other text of each image has
    0 - 10: log(1 + e^-10) = 0.000045. A row's sum, and so the mean, is 0.693193.
    """
    space, pairs = JointSpace(dim=2, temperature=0.1), torch.eye(2)
    space.use_scale()
    loss = siglip.sigmoid_loss(pairs, pairs, space.scale(), siglip.SigLIP().bias)
    assert loss.item() == pytest.approx(0.693193, abs=1e-6)


@pytest.mark.parametrize("logit", [-60.0, 0.0, 19.0, 21.0, 60.0])
def test_sigmoid_loss_is_exact_at_large_logits(logit):
    """A lone pair, whose logit is the bias: the loss is log(1 + exp(-bias))."""
    one, bias = torch.ones(1, 1, dtype=torch.float64), torch.tensor([logit], dtype=torch.float64)
    loss = siglip.sigmoid_loss(one, one, bias * 0, bias)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-logit)), rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("name", ["simclr", "siglip", "slip"])
def test_bfloat16_towers_give_finite_float32_losses(name):
    model = testing.build(cases.OBJECTIVES[name]).float()
    values = testing.inputs(model, cases.OBJECTIVES[name])
    values = {n: v.float() if v.is_floating_point() else v for n, v in values.items()}
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = model(values)
    for loss in losses.values():
        assert loss.dtype == torch.float32 and loss.isfinite()


# -- in pieces, over ranks -----------------------------------------------------------------------

ROWS = 5  # of a rank
WEIGHTS = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # of view pairs, lest they be confused
LOSSES = dict(
    contrast=lambda a, b, s, rows: _common.contrast(a, _common.gather_rows(b), s, rows),
    one_way=lambda a, b, s, rows: _common.one_way(a * s, _common.gather_rows(b), rows),
    nt_xent=lambda a, b, s, rows: simclr.nt_xent(a * s, _common.gather_rows(b), 0.5, rows),
    sigmoid=lambda a, b, s, rows: siglip.sigmoid_loss(a[0], dist.gather(b[0]), s, -s, rows),
)


def drawn(images, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, images, 3, generator=draw, dtype=torch.float64).to(dtype)


def outcome(name, pair, rows):
    """The loss, and its gradients by both operands and the scale."""
    leaves = [x.detach().requires_grad_() for x in (*pair, pair.new_ones(1))]
    loss = (LOSSES[name](*leaves, rows) * WEIGHTS.to(pair)).sum()
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", LOSSES)
def test_pieces_equal_the_whole(name, dtype, error):
    whole, *pieces = (outcome(name, drawn(ROWS, dtype), rows) for rows in (ROWS, 2, 1))
    for values in pieces:
        for ours, other in zip(values, whole, strict=True):
            assert (ours - other).abs().max() <= error * other.abs().max()


def one_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    own = drawn(2 * ROWS)[:, :, rank * ROWS : (rank + 1) * ROWS]
    found = {}
    for name in LOSSES:
        for rows in (ROWS, 2):
            loss, first, second, scale = outcome(name, own, rows)
            # Data parallelism averages what parameters get, here the scale.
            values = dist.average(loss), first / 2, second / 2, dist.average(scale)
            found |= {f"{name}.{rows}.{i}": v.contiguous() for i, v in enumerate(values)}
    save_file(found, f"{folder}/{rank}.safetensors")
    dist.shutdown()


def test_two_ranks_in_pieces_equal_one_process(tmp_path):
    torch.multiprocessing.spawn(one_rank, (str(tmp_path),), nprocs=2)
    ranks = [load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)]
    for name in LOSSES:
        alone = outcome(name, drawn(2 * ROWS), 2 * ROWS)
        for rows in (ROWS, 2):
            for i, wanted in enumerate(alone):
                first, second = (rank[f"{name}.{rows}.{i}"] for rank in ranks)
                got = torch.cat([first, second], 1) if i in (1, 2) else first
                torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


# -- what they cost ------------------------------------------------------------------------------


class Work(TorchDispatchMode):
    """Counts matrix products, and the most bytes that are alive at a time."""

    def __init__(self):
        super().__init__()
        self.storages, self.bytes, self.peak, self.products = weakref.WeakSet(), 0, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.products += func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm")
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage()
            if storage not in self.storages:
                self.storages.add(storage)
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self.free, storage.nbytes())
        self.peak = max(self.peak, self.bytes)
        return out

    def free(self, size):
        self.bytes -= size


@pytest.mark.parametrize("name", LOSSES)
def test_one_product_for_each_piece(name):
    for rows, pieces in ((6, 1), (2, 3), (1, 6)):
        with Work() as work:
            LOSSES[name](*drawn(6).requires_grad_(), torch.ones(1, dtype=torch.float64), rows)
        assert work.products == pieces


@pytest.mark.parametrize("name", LOSSES)
def test_pieces_take_their_share_of_memory(name):
    """A sixteenth of the rows: at most an eighth of the bytes, forward and backward."""
    peaks = []
    for rows in (256, 16):
        with Work() as work:
            outcome(name, drawn(256), rows)
        peaks.append(work.peak)
    assert peaks[0] > 256 * 256 * 8 and peaks[1] < peaks[0] / 8


def test_slip_encodes_three_views_in_one_call():
    case = cases.OBJECTIVES["slip"]
    model, calls = testing.build(case), []
    model.towers["image"].register_forward_pre_hook(lambda _, args: calls.append(args[0]))
    losses, _ = model(testing.inputs(model, case))
    assert [[segment.need.view for segment in call] for call in calls] == [["v1", "v2", "v3"]]
    assert set(losses) == {"clip.loss", "simclr.loss"}
