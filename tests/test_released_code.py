"""DeCLIP as its authors released it: per rank in its queue and its norms, and other bounds."""

import itertools
import math
from collections import deque

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import cases
from tests.plain import Setting, cross_entropy, dot, mean, nearest, remember, simsiam
from tests.test_runner import config
from webssl_toolbox import Progress, dist, testing
from webssl_toolbox.engine.runner import Runner
from webssl_toolbox.registry import SPACES

torch.set_num_threads(1)

LOCAL = dict(size=8, enqueue=("text_aug", "text"), symmetric=False, rank_local=True)


def one_rank(rank, folder):
    torch.set_num_threads(1)
    where = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
    out = {}
    for name, setting in local_settings(rank).items():
        for step in range(3):
            loss = setting.forward()["loss"]
            if step < 2:
                setting.objective.after_step(Progress(step + 1, 9))
                setting.next_batch()
        gradients = torch.autograd.grad(loss, setting.leaves(), materialize_grads=True)
        out |= {f"{name}.{i}": x.detach().clone() for i, x in enumerate([loss, *gradients])}
    save_file(out, f"{folder}/{rank}")
    dist.shutdown()


def local_settings(rank):
    return dict(
        queue=Setting("NNQueue", rows=2, seed=rank, **LOCAL),
        norm=Setting("SimSiam", rows=3, seed=rank, dim=4, hidden=3, sync_bn=False),
    )


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(one_rank, (str(folder),), nprocs=2)
    return [load_file(folder / str(rank)) for rank in range(2)]


def equal_to_rank(found, name, loss, setting):
    gradients = torch.autograd.grad(
        loss, setting.leaves(), allow_unused=True, materialize_grads=True
    )
    for i, value in enumerate([loss, *gradients]):
        torch.testing.assert_close(found[f"{name}.{i}"], value.detach(), rtol=1e-9, atol=1e-9)


def test_each_rank_searches_its_own_captions(two_ranks):
    """And tells its images' neighbours from those of all ranks."""
    settings = [local_settings(rank)["queue"] for rank in range(2)]
    memories = [deque(maxlen=LOCAL["size"]) for _ in settings]
    for _ in range(2):
        for setting, memory in zip(settings, memories, strict=True):
            remember(memory, setting, LOCAL["enqueue"])
            setting.next_batch()
    for rank, setting in enumerate(settings):
        losses = []
        for image, text in itertools.product(("v1", "v2"), ("text", "text_aug")):
            near = [nearest(m, s, text) for m, s in zip(memories, settings, strict=True)]
            for i, query in enumerate(setting.embedded(image)):
                logits = [setting.scale() * dot(query, key) for key in near[0] + near[1]]
                losses.append(cross_entropy(logits, setting.rows * rank + i))
        equal_to_rank(two_ranks[rank], "queue", mean(losses), setting)


def test_each_rank_normalises_its_own_rows(two_ranks):
    for rank in range(2):
        setting = local_settings(rank)["norm"]
        setting.next_batch(), setting.next_batch()
        inputs = [setting.encoding(view).pooled for view in ("v1", "v2")]
        equal_to_rank(two_ranks[rank], "norm", simsiam(setting, inputs), setting)


RELEASED = testing.Case(
    dict(
        towers=cases.TOWERS,
        spaces=dict(joint=dict(type="JointSpace", dim=8, bias=["text"], min_scale=math.exp(3))),
        objectives=dict(
            clip=dict(type="CLIP", text="text_mlm"),
            multi_view=dict(
                type="MultiView", texts=("text_mlm", "text_aug"), skip=[("v1", "text_mlm")]
            ),
            simsiam=dict(
                type="SimSiam", dim=16, hidden=8, space="joint", normalize=False, sync_bn=False
            ),
            mlm=dict(type="MLM"),
            nn_queue=dict(type="NNQueue", texts=("text_mlm", "text_aug"), **LOCAL)
            | dict(enqueue=("text_aug", "text_mlm")),
        ),
    )
)


def test_the_released_code_keeps_the_contract_of_one_rank():
    """DeCLIP as its authors released it: per rank in its queue and its norms, and declared so."""
    testing.check_gradients(RELEASED)
    testing.check_one_call_per_tower(RELEASED)
    testing.check_skipped_step(RELEASED)
    testing.check_state_round_trip(RELEASED)
    with pytest.raises(AssertionError, match=r"\['simsiam', 'nn_queue'\] are rank_local"):
        testing.check_ranks([RELEASED])


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resume_says_which_state_was_the_first_ranks(ranks, tmp_path, monkeypatch, caplog):
    changes = dict(model__objectives__nn_queue__rank_local=True, train_cfg__max_iters=1)
    runner = Runner(config(**changes), tmp_path, device="cpu")
    runner.train()
    monkeypatch.setattr(dist, "world_size", lambda: ranks)
    runner._prepare_work_dir(resume=True)
    assert ("first rank's state of nn_queue," in caplog.text) == (ranks > 1)


# -- the joint space -----------------------------------------------------------------------------


def test_the_temperature_stays_between_its_bounds():
    space = SPACES.create(dict(type="JointSpace", dim=3, min_scale=20, max_scale=50), "space")
    space.use_scale()
    for start, bounded in ((0.0, 20), (30.0, 30), (99.0, 50)):
        torch.nn.init.constant_(space.logit_scale, math.log(start) if start else -1e3)
        space.after_step(Progress(1, 9))
        assert space.scale().item() == pytest.approx(bounded)
    with pytest.raises(ValueError, match=r"min_scale=9 and max_scale=2"):
        SPACES.create(dict(type="JointSpace", dim=3, min_scale=9, max_scale=2), "space")


def test_a_space_projects_a_tower_from_one_width():
    space = SPACES.create(dict(type="JointSpace", dim=3), "space")
    space.attach("image", 4)
    space.attach("image", 4)
    with pytest.raises(ValueError, match=r"'image' from 4 channels.* from 5 .*space of its own"):
        space.attach("image", 5)
