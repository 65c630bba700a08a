"""Ranks that hold shards of a model equal one that holds it whole, from its start to its files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests import cases
from webssl_toolbox import Progress, dist, testing
from webssl_toolbox.encoder import Encoder
from webssl_toolbox.engine import checkpoint, settings, strategies
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.dry_run import build_on_meta
from webssl_toolbox.engine.optim import OptimWrapper

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
# A teacher, prototypes with theirs, a temperature, buffers that no checkpoint stores; widths that
# two ranks cannot share evenly, and parameters of a single row.
CASE = testing.Case(
    dict(
        towers=cases.TEACHER | dict(text=cases.TEXT | dict(width=18), fusion=cases.FUSION),
        spaces=cases.PROTO | cases.DECODER | dict(joint=dict(type="JointSpace", dim=7)),
        objectives=dict(
            dino=dict(type="DINO"),
            clip=dict(type="CLIP", image="g1"),
            siglip=dict(type="SigLIP", image="g1"),
            m3ae=dict(type="MAE", tower="fusion", text="text_mae"),
            m3ae_text=dict(type="MAEText"),
        ),
    )
)
OPTIM = settings.OptimWrapper(
    dict(type="AdamW", lr=1e-3, weight_decay=0.1),
    clip_grad=0.05,
    clip_per="module",
    precision="fp32",
)
VIEW = [dict(type="ResizeCenterCrop"), dict(type="Normalize")]
IMAGE = np.arange(3 * 20 * 20, dtype=np.uint8).reshape(20, 20, 3)


class Run:
    """A model in float64, its optimizer, and one rank's part of its steps."""

    def __init__(self, rank=0, ranks=1):
        self.place, self.strategy = (rank, ranks), "fsdp2" if ranks > 1 else "single"
        self.model = strategies.build(CASE.model, self.strategy, CPU).double().train()
        self.optim = OptimWrapper(OPTIM, self.model, CPU)

    def train(self, first, last, spoil=1.0):
        """Returns the norm of each step's gradient."""
        wrapped, norms = strategies.wrap(self.model, self.strategy), []
        for step in range(first, last):
            self.model.step, self.model.total = step, 10
            self.optim.schedule(step, 10)
            losses, logs = wrapped(testing.inputs(self.model, CASE, step, *self.place))
            finite, norm = self.optim.update(torch.stack(list(losses.values())).sum() * spoil)
            self.model.after_step(Progress(step + 1, 10, finite))
            norms.append(norm)
            self.logged = logs["siglip.bias"]  # a parameter, as the step saw it
        return torch.stack(norms)

    def state(self):
        optimizer = checkpoint.optimizer_tensors(self.model, self.optim.optimizer)
        tensors = checkpoint.model_tensors(self.model) | optimizer
        return {name: dist.whole(value).clone() for name, value in tensors.items()}

    def digest(self):
        return checkpoint.digest(self.model, self.optim.optimizer)


def one_rank(rank, ranks, folder):
    torch.set_num_threads(1)
    where = f"file://{folder}/rendezvous{ranks}"
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=ranks)
    run = Run(rank, ranks)
    tensors = strategies._tensors(run.model)
    save_file({name: dist.whole(x) for name, x in tensors.items()}, f"{folder}/start{rank}")
    shards = sum(dist.local(p).numel() for p in run.model.parameters())
    norms = run.train(0, 3)
    told = {"norms": norms, "logged": run.logged}
    save_file(run.state() | told, f"{folder}/trained{rank}")

    before = run.digest()
    run.train(3, 4, spoil=float("nan") if rank == 1 else 1.0)
    kept = run.digest() == before
    checkpoint.save(folder / "run", 3, run.model, run.optim.optimizer, {"world_size": ranks})
    again = Run(rank, ranks)
    checkpoint.load(folder / "run" / "step_00000003", again.model, again.optim.optimizer)
    found = dict(shards=shards, kept=kept, before=before, loaded=again.digest())

    run.model.float()
    encoder = Encoder(run.model, VIEW)
    with strategies.evaluable(encoder, CASE.model, "fsdp2"):
        if rank == 0:  # alone: the others would be waited for
            save_file({"features": encoder.encode_features(IMAGE)}, folder / "features")
            found["scale"] = encoder.scale()
    found["given back"] = encoder.model is run.model
    (folder / f"found{rank}.json").write_text(json.dumps(found))
    dist.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(one_rank, (2, folder), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def alone():
    run = Run()
    run.norms = run.train(0, 3)
    return run


def found(folder, rank):
    return json.loads((folder / f"found{rank}.json").read_text())


def test_shards_start_from_the_weights_of_the_whole(folder):
    whole = strategies._tensors(Run().model)
    assert {"towers.fusion.word_positions", "spaces.proto.mlp.0.weight"} <= whole.keys()
    for rank in (0, 1):
        start = load_file(folder / f"start{rank}")
        assert start.keys() == whole.keys()
        assert all(torch.equal(value, start[name]) for name, value in whole.items())


def test_each_rank_holds_its_share(folder):
    shares = [found(folder, rank)["shards"] for rank in (0, 1)]
    assert sum(shares) == sum(p.numel() for p in Run().model.parameters())
    assert max(shares) < 1.1 * min(shares)


def test_steps_equal_those_of_the_whole(folder, alone):
    """Weights, averages, moments, and norms before clipping, of which each module has its own."""
    expected = alone.state() | {"norms": alone.norms, "logged": alone.logged}
    assert alone.norms.min() > 0.2 > OPTIM.clip_grad
    for rank in (0, 1):
        together = load_file(folder / f"trained{rank}")
        assert together.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(together[name], value, rtol=1e-9, atol=1e-12)


def test_a_gradient_that_is_not_finite_on_one_rank_changes_nothing_on_any(folder):
    assert found(folder, 0)["kept"] and found(folder, 1)["kept"]


def test_a_checkpoint_of_shards_is_that_of_the_whole(folder, alone, tmp_path):
    """Equal on all ranks, loaded again by two, and by one process, which goes on from there."""
    first, second = (found(folder, rank) for rank in (0, 1))
    assert first["before"] == second["before"] == first["loaded"] == second["loaded"]
    path = checkpoint.latest(folder / "run")
    run = Run()
    checkpoint.load(path, run.model, run.optim.optimizer)
    assert run.digest() == first["before"]
    own = checkpoint.save(tmp_path, 3, run.model, run.optim.optimizer)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (own / name).read_bytes() == (path / name).read_bytes()
    whole = Run()
    torch.testing.assert_close(run.train(3, 6), whole.train(0, 6)[3:], rtol=1e-9, atol=1e-12)
    for name, value in whole.state().items():
        torch.testing.assert_close(run.state()[name], value, rtol=1e-9, atol=1e-12)


def test_the_first_rank_evaluates_a_whole_copy(folder, alone):
    assert found(folder, 0)["given back"] and found(folder, 1)["given back"]
    whole = Run()
    checkpoint.load(checkpoint.latest(folder / "run"), whole.model, strict=False)
    encoder = Encoder(whole.model.float(), VIEW)
    features = load_file(folder / "features")["features"]
    torch.testing.assert_close(features, encoder.encode_features(IMAGE))
    assert found(folder, 0)["scale"] == encoder.scale()


def test_the_strategy_is_chosen_by_the_ranks(monkeypatch):
    assert [strategies.choose(name) for name in (None, "ddp", "fsdp2")] == ["single"] * 3
    monkeypatch.setattr(dist, "world_size", lambda: 2)
    assert [strategies.choose(name) for name in (None, "ddp", "fsdp2")] == ["ddp", "ddp", "fsdp2"]
    with pytest.raises(ValueError, match="for one process, not for 2"):
        strategies.choose("single")


@pytest.mark.parametrize(
    ("tower", "expected"),
    [
        (cases.VIT, ["blocks.0", "blocks.1"]),
        (cases.TEXT, ["blocks.0", "blocks.1"]),
        (cases.REGNET, ["s1.b1", "s2.b1", "s3.b1", "s4.b1"]),
        (cases.RESNET, [f"layer{i}.0" for i in range(1, 5)]),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_blocks_are_what_a_tower_repeats(tower, expected):
    model = build_on_meta(dict(towers=dict(image=tower), objectives=dict(k=dict(type="KoLeo"))))
    names = {module: name for name, module in model.towers.image.named_modules()}
    assert [names[block] for block in strategies.blocks(model.towers)] == expected


def test_web_dino_7b_is_sharded_over_64_ranks_without_a_number():
    cfg = settings.settings_from(load_config(ROOT / "configs/paper/web_dino_7b.py"))
    assert cfg.strategy == "fsdp2"
    model = build_on_meta(cfg.model)
    every = sum(p.numel() for p in model.parameters())
    torch.distributed.init_process_group("fake", rank=5, world_size=64, store=FakeStore())
    try:
        strategies.shard(model, CPU, "bf16")
        shards = sum(dist.local(p).numel() for p in model.parameters())
        assert every > 2 * 6.4e9 and every / 64 == pytest.approx(shards, rel=1e-3)
        assert all(dist.is_sharded(p) and p.is_meta for p in model.parameters())
    finally:
        dist.shutdown()
