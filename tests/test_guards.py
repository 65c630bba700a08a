"""Guards: a step that is not finite changes no byte, on any rank, and can be run again.

And monitors: a loss that jumps, and representations that collapse, are said in words.
"""

import json
import math
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from tools import replay
from tools.benchmark import Operations
from webssl_plugins.hooks.collapse import Collapse
from webssl_plugins.hooks.loss_spike import LossSpike
from webssl_toolbox import Need, Objective, dist
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.data.sampler import PositionSampler
from webssl_toolbox.data.views import DeviceTransform
from webssl_toolbox.engine import checkpoint, runner
from webssl_toolbox.engine.finite import NonFinite
from webssl_toolbox.engine.runner import Runner
from webssl_toolbox.registry import DATASETS, HOOKS, OBJECTIVES, VIEWS

from . import cases, test_runner

STEP = 4  # at which something goes wrong, counted from 1


def goes_wrong(step):
    return step + 1 == STEP and dist.rank() == dist.world_size() - 1


@OBJECTIVES.register_module()
class Unlucky(Objective):
    """A loss that is NaN in one step on one rank, though its gradient is not."""

    def needs(self):
        return frozenset({Need("image", "v1")})

    def forward(self, features):
        wrong = features.at(lambda step, total: float("nan") if goes_wrong(step) else 0.0)
        return {"loss": features[Need("image", "v1")].pooled.square().mean() + wrong}


@HOOKS.register_module()
class SpoilGradient(Hook):
    """Spoils the gradient of a weight in one step on one rank; all losses are finite."""

    def before_train(self, runner):
        weight = next(p for p in runner.model.towers["text"].parameters() if p.ndim == 2)
        wrong = torch.tensor(float("nan"))
        weight.register_hook(lambda grad: grad * wrong if goes_wrong(runner.model.step) else grad)


@VIEWS.register_module()
class Standardize(DeviceTransform):
    """Divides each image by its own standard deviation, as people do: that of a blank one is 0."""

    def apply(self, images, params):
        mean, std = images.mean((1, 2, 3), True), images.std((1, 2, 3), keepdim=True)
        return (images - mean) / std


@DATASETS.register_module()
class WithABlank(test_runner.Stripes):
    """One of the forty pictures is blank: that of a row of the last rank in the step."""

    def load(self, index, rng):
        sample = super().load(index, rng)
        if index != blank():
            return sample
        return Sample(0 * sample.image, sample.captions, sample.label, key="blank.png")


def samples():
    return [index for _, index, _ in next(iter(PositionSampler(40, 8, 0, start=STEP - 1)))]


def blank():
    return samples()[-2]


def config(**changes):
    """Everything that a step may spoil: weights, moments, BatchNorm, teacher, centre, queue."""
    view = [dict(type="RandomResizedCrop"), dict(type="ColorJitter")]
    model = dict(
        towers=cases.TEACHER | dict(text=cases.TEXT),
        spaces=cases.JOINT | cases.PROTO,
        objectives=dict(
            clip=dict(type="CLIP"),
            simsiam=dict(type="SimSiam", dim=16, hidden=8),
            nn_queue=dict(type="NNQueue", size=8),
            dino=dict(type="DINO", globals=("v1", "v2")),
        ),
    )
    cfg = test_runner.config(model=model, train_cfg__max_iters=5)  # an epoch
    cfg["train_dataloader"]["views"] |= dict(
        v1=[*view, dict(type="Standardize")], v2=[*view, dict(type="Normalize")]
    )
    return test_runner.changed(cfg, **changes)


CAUSES = {
    "loss": (
        dict(model__objectives__unlucky=dict(type="Unlucky")),
        "unlucky.loss",
        "the data are not the cause",
    ),
    "gradient": (
        dict(hooks=dict(spoil=dict(type="SpoilGradient"))),
        "",
        "the data are not the cause",
    ),
    "sample": (
        dict(train_dataloader__dataset=dict(type="WithABlank")),
        "clip.loss",
        "(blank.png): clip.loss",
    ),
}


@pytest.fixture(autouse=True)
def without_dry_run(monkeypatch):
    monkeypatch.setattr("webssl_toolbox.engine.runner.dry_run", lambda model: None)


class Witness(Hook):
    """Sees that every step changes all state, but the bad one no byte of it."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = state(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        now = state(runner)
        same = {name for name, value in self.before.items() if value == now[name]}
        if runner.iter == STEP:
            assert same == now.keys(), now.keys() - same
        elif runner.iter > 1:  # then the optimizer has state
            for kind in ("towers.image.", "image_ema.", "running_mean", "queue", "centre", "exp_"):
                assert any(kind in name for name in now.keys() - same), kind


def state(runner):
    model, optimizer = runner.model, runner.optim_wrapper.optimizer
    tensors = checkpoint.model_tensors(model) | checkpoint.optimizer_tensors(model, optimizer)
    return {name: value.cpu().numpy().tobytes() for name, value in tensors.items()}


def run_and_replay(cause, folder):
    """Trains over the bad step, and runs it again; returns the replay file and what it said."""
    changes, _, _ = CAUSES[cause]
    run = Runner(config(**changes), folder)
    run.hooks.append(Witness())
    run.train()
    dist.barrier()
    file = folder / "replay" / f"step_{STEP:08d}.json"
    return json.loads(file.read_text()), replay.replay(file)


def check(cause, ranks, stored, lines):
    _, loss, said = CAUSES[cause]
    assert stored["step"] == STEP and stored["ranks"] == ranks
    assert stored["checkpoint"] == "step_00000002"
    assert stored["samples"] == samples()
    named = [name.partition(" ")[0] for name in stored["not_finite"]]
    assert loss in named or (not loss and not named)
    if cause == "loss" and ranks == 2:
        assert stored["not_finite"] == ["unlucky.loss of rank 1"]
    assert f"step {STEP} is skipped again" in lines[0] and "(as in the run)" in lines[0]
    assert said in lines[-1]
    if cause == "gradient":
        assert "no loss, but a gradient" in lines[0]
        assert lines[1].endswith("is that of clip.loss")
    if cause == "sample":
        assert lines[-1].startswith(f"sample {blank()} ") and len(lines) == 2


@pytest.mark.parametrize("cause", CAUSES)
def test_a_bad_step_changes_nothing_and_runs_again(cause, tmp_path):
    check(cause, 1, *run_and_replay(cause, tmp_path))


@pytest.mark.slow
def test_nor_on_two_ranks(tmp_path):
    processes = torch.multiprocessing
    processes.spawn(_one_rank, args=(tmp_path,), nprocs=2, join=True)
    for cause in CAUSES:
        for rank in range(2):
            check(cause, 2, *json.loads((tmp_path / f"{cause}.{rank}").read_text()))


def _one_rank(rank, folder):
    runner.dry_run = lambda model: None
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    for cause in CAUSES:
        found = run_and_replay(cause, folder / cause)
        (folder / f"{cause}.{rank}").write_text(json.dumps(found))
    dist.shutdown()


def test_a_config_may_stop_at_once(tmp_path):
    cfg = config(train_cfg__max_skipped=1, model__objectives__unlucky=dict(type="Unlucky"))
    with pytest.raises(NonFinite, match=r"step 4 ends the run .*unlucky.loss.*tools/replay.py"):
        Runner(cfg, tmp_path).train()


# -- monitors ------------------------------------------------------------------------------------


def stand_in(folder, **values):
    """What a hook sees of a runner of 40 samples in batches of 8."""
    data = SimpleNamespace(batch_size=8)
    interval = SimpleNamespace(log_interval=10)
    settings = SimpleNamespace(
        train_dataloader=data, train_cfg=interval, seed=0, test_tower="image"
    )
    return SimpleNamespace(
        iter=0, settings=settings, dataset=range(40), work_dir=folder, means={}, **values
    )


def curves(steps=120):
    """A falling loss with noise and a jump of three steps, a constant one that begins, a NaN."""
    noise = np.random.default_rng(0).normal(size=steps) / 20
    for i in range(steps):
        clip = 5 - i / 1000 + float(noise[i]) + 2 * (i in (86, 87, 88))
        queue = 6.0 if i > 70 else 0.0
        yield {"clip.loss": clip, "queue.loss": queue, "mae.loss": math.nan if i == 75 else 0.3}


def test_a_jump_of_a_loss_names_its_samples_once(tmp_path, caplog):
    run, hook = stand_in(tmp_path), LossSpike()
    for logs in curves():
        run.iter += 1
        values = {name: torch.tensor(value) for name, value in (logs | {"lr": 1.0}).items()}
        with Operations() as operations:
            hook.after_train_iter(run, run.iter - 1, outputs=values)
        assert run.iter % 10 == 0 or not operations.calls  # so nothing is read, either
    (row,) = map(json.loads, (tmp_path / "loss_spikes.jsonl").read_text().splitlines())
    samples = next(iter(PositionSampler(40, 8, 0, start=86)))
    assert row["step"] == 87 and row["loss"] == "clip.loss" and row["rank"] == 0
    assert row["samples"] == [index for _, index, _ in samples]
    (record,) = caplog.records
    assert re.match(r"step 87: clip.loss jumped to \S+ on rank 0, \d+ deviations", record.message)
    assert ", ".join(map(str, row["samples"])) in record.message


def test_a_jump_of_one_rank_names_the_samples_of_that_rank(tmp_path):
    run, hook = stand_in(tmp_path), LossSpike(window=40)
    values = 1 + np.random.default_rng(0).normal(size=(40, 2, 1)) / 50
    values[33, 1] = 3.0
    for run.iter in (10, 20, 30, 40):
        hook.look(run, ["mae.loss"], values[run.iter - 10 : run.iter])
    (row,) = map(json.loads, (tmp_path / "loss_spikes.jsonl").read_text().splitlines())
    samples = next(iter(PositionSampler(40, 8, 0, start=33, rank=1, ranks=2)))
    assert (row["step"], row["rank"]) == (34, 1)
    assert row["samples"] == [index for _, index, _ in samples]


@OBJECTIVES.register_module()
class Pull(Objective):
    """Pulls all images to one point."""

    def needs(self):
        return frozenset({Need("image", "v1")})

    def forward(self, features):
        rows = torch.nn.functional.normalize(features[Need("image", "v1")].pooled, dim=1)
        return {"loss": rows.std(0).mean()}


@pytest.mark.parametrize("objective", ["Pull", "SimCLR"])
def test_towers_that_collapse_are_named(objective, tmp_path, caplog):
    chosen = dict(type="Pull") if objective == "Pull" else dict(type="SimCLR", dim=6, hidden=16)
    cfg = config(
        model=dict(towers=dict(image=cases.VIT), objectives=dict(chosen=chosen)),
        optim_wrapper__optimizer=dict(type="AdamW", lr=3e-3),
        train_cfg=dict(max_iters=40, log_interval=10),
        hooks=dict(collapse=dict(type="Collapse")),
    )
    Runner(cfg, tmp_path).train()
    said = [r.message for r in caplog.records if "collapsed" in r.message]
    assert len(said) == (objective == "Pull")
    assert all("embeddings of tower 'image'" in text for text in said)


SIGNS = {
    "simsiam.std": (0.01, 0.9, "projections of objective 'simsiam'"),
    "dino.use": (1.2 / 12, 0.4, "'dino' gives one prototype to all rows"),
    "dino.entropy": (math.log(12) - 1e-4, 2.0, "'dino' finds all 12 prototypes alike"),
    "rank/all/rank": (100 * 1.1 / 16, 40.0, r"1\.1 directions of 16"),
}


@pytest.mark.parametrize(("name", "signs"), SIGNS.items(), ids=SIGNS)
def test_a_collapse_is_said_once_in_words(name, signs, tmp_path, caplog):
    collapsed, sound, words = signs
    model = SimpleNamespace(
        towers={"image": SimpleNamespace(width=16)},
        spaces={"proto": SimpleNamespace(dim=12)},
        objectives={"dino": SimpleNamespace(space="proto")},
    )
    run, hook = stand_in(tmp_path, model=model), Collapse()
    for value, count in ((sound, 0), (collapsed, 1), (collapsed, 1)):
        run.means = {} if "/" in name else {name: value, "dino.loss": 0.0}
        hook.before_train_iter(run, 0)
        hook.after_val_epoch(run, {name: value} if "/" in name else None)
        assert len(caplog.records) == count
    assert re.search(words, caplog.text)


@pytest.mark.parametrize("kind", ["subprocess.getoutput", "os:system", "../Pretrainer"])
def test_replay_builds_only_what_is_registered(kind, tmp_path):
    model = {"type": kind, "cmd": f"touch {tmp_path}/canary"}
    content = {"step": 1, "ranks": 1, "not_finite": [], "checkpoint": None}
    file = tmp_path / "step_00000001.json"
    file.write_text(json.dumps(content | {"config": config() | {"model": model}}))
    with pytest.raises(ValueError, match=r"is not known|not registered|unknown"):
        replay.replay(file)
    assert not (tmp_path / "canary").exists()
