"""Crashes: whatever ends a run, the last checkpoint is whole, and going on from it is exact."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mmengine.hooks import Hook
from PIL import Image

from webssl_toolbox import dist
from webssl_toolbox.engine import checkpoint
from webssl_toolbox.registry import HOOKS

from . import cases
from .test_checkpoint import KILLS, run_child
from .test_signals import ENV, ROOT, steps, train

# -- in this process -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))


def test_a_truncated_newest_checkpoint_is_named_and_the_one_before_is_used(tmp_path, whole):
    train(tmp_path)
    file = tmp_path / "checkpoints/step_00000006/model.safetensors"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.warns(UserWarning, match=r"step_00000006 is skipped: .* is damaged") as warned:
        assert train(tmp_path, resume=True) == whole
    assert len([w for w in warned if "skipped" in str(w.message)]) == 1
    assert checkpoint.latest(tmp_path / "checkpoints") == file.parent  # it was written again


class FullDisk(Hook):
    """From a step on, files may not grow as large as a checkpoint."""

    def __init__(self, step):
        self.step = step

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == self.step:
            path = checkpoint.latest(runner.checkpoints) / checkpoint.MODEL
            limit = path.stat().st_size - 1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_full_disk_is_said_and_costs_no_checkpoint(tmp_path, whole):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match=r"step 4 was not written .*: .*too large.*free space"):
            train(tmp_path, FullDisk(step=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]
    assert train(tmp_path, resume=True) == whole


@pytest.mark.slow
def test_fifty_kills_of_a_loop_that_saves_lose_at_most_one_interval_each(tmp_path):
    assert len(run_child(KILLS, tmp_path, kills=50, timeout=900)) == 50


# -- tools/train.py --------------------------------------------------------------------------------


@HOOKS.register_module()
class Harm(Hook):
    """Sends a signal at a step of one rank, once, and goes on slowly."""

    def __init__(self, step, signum, once, rank=0, parent=False):
        self.step, self.signum, self.once = step, signum, Path(once)
        self.rank, self.parent, self.slow = rank, parent, False

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        time.sleep(0.5 * self.slow)
        if batch_idx == self.step and dist.rank() == self.rank and not self.once.exists():
            self.once.touch()
            self.slow = True
            os.kill(os.getppid() if self.parent else os.getpid(), self.signum)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A config of a teacher and its student, with little to compute."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "images").mkdir()
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{i}.png")
    dino = dict(dino=dict(type="DINO"), koleo=dict(type="KoLeo", weight=0.1))
    view = [dict(type="RandomResizedCrop"), dict(type="ColorJitter"), dict(type="Normalize")]
    sections = dict(
        model=dict(towers=cases.TEACHER, spaces=cases.PROTO, objectives=dino),
        train_dataloader=dict(
            dataset=dict(type="ImageFolder", root=str(folder / "images")),
            views=dict(g1=view, g2=view),
            batch_size=8,
            num_workers=2,
        ),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3), precision="fp32"),
        train_cfg=dict(max_iters=40, checkpoint_interval=4, log_interval=4),
        hooks={},
    )
    file = folder / "small.py"
    text = "".join(f"{key} = {value!r}\n" for key, value in sections.items())
    file.write_text(f"import tests.test_crash as _harm\n{text}")
    return file


def start(config, work_dir, *flags, ranks=1, restarts=0, **options):
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command += [f"--max-restarts={restarts}"]
    command += ["tools/train.py", str(config), "--work-dir", str(work_dir), *flags]
    command += ["--device", "cpu", "--cfg-options", "seed=1"]
    command += [f"{key.replace('__', '.')}={value}" for key, value in options.items()]
    log = work_dir.with_suffix(".log").open("a")
    return subprocess.Popen(command, cwd=ROOT, env=ENV, stderr=log, start_new_session=True)


def harm(work_dir, **arguments):
    return dict(harm=dict(type="Harm", once=str(work_dir.with_suffix(".once")), **arguments))


def content(work_dir, step=40):
    """SHA-256 of the files of a checkpoint, which hold the whole state."""
    state = work_dir / f"checkpoints/step_{step:08d}/state.json"
    return json.loads(state.read_text())["files"]


@pytest.fixture(scope="module")
def whole_on_two(small):
    work = small.with_name("whole_on_two")
    assert start(small, work, ranks=2).wait(600) == 0
    return content(work)


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_the_run_ends_as_if_nothing_was(small, whole_on_two):
    work = small.with_name("killed_rank")
    kill = harm(work, step=random.randrange(5, 36), signum=9, rank=1)
    assert start(small, work, ranks=2, restarts=1, hooks=kill).wait(600) == 0
    log = work.with_suffix(".log").read_text()
    assert "resuming from" in log, log
    assert content(work) == whole_on_two


@pytest.mark.slow
def test_a_killed_rank_ends_the_others(small):
    work = small.with_name("ended")
    run = start(small, work, ranks=2, hooks=harm(work, step=5, signum=9, rank=1))
    assert run.wait(300) == 1
    with pytest.raises(ProcessLookupError):  # nobody of its session is left
        os.killpg(run.pid, 0)
    assert steps(work) == [4]


@pytest.mark.slow
def test_torchrun_passes_a_signal_on_and_the_run_continues(small, whole_on_two):
    work = small.with_name("torchrun")
    ask = harm(work, step=9, signum=15, parent=True)
    assert start(small, work, ranks=2, hooks=ask).wait(600) == 1  # torchrun's own code
    log = work.with_suffix(".log").read_text()
    last = steps(work)[-1]
    assert 9 < last < 40 and f"SIGTERM: step {last} is saved" in log, log
    assert start(small, work, "--resume", ranks=2).wait(600) == 0
    assert content(work) == whole_on_two


@pytest.mark.slow
def test_kills_of_the_tool_and_its_exit_code(small):
    """Three kills at random moments; then a signal; then the rest."""
    work, whole = small.with_name("killed"), small.with_name("whole")
    assert start(small, whole).wait(600) == 0
    known, every_step = [0], dict(train_cfg__checkpoint_interval=1)
    for _ in range(3):
        run = start(small, work, "--resume", **every_step)
        deadline = time.monotonic() + 300
        while steps(work)[-1:] in ([], known):
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        known = steps(work)[-1:]
    ask = harm(work, step=known[0] + 1, signum=10)
    run = start(small, work, "--resume", hooks=ask, **every_step)
    assert run.wait(600) == 75
    assert steps(work)[-1] == known[0] + 2
    assert start(small, work, "--resume", **every_step).wait(600) == 0
    log = work.with_suffix(".log").read_text()
    assert "is skipped" not in log and log.count("resuming from") == 4
    assert content(work) == content(whole)
