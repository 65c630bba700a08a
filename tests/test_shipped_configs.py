"""The configs themselves, on the embedded corpus: minutes, so for ``make test-all``."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


def start(config, work_dir, *options, resume=False):
    command = [sys.executable, "tools/train.py", f"configs/{config}.py", "--work-dir", work_dir]
    command += ["--resume"] * resume + ["--cfg-options", *options]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True)


def digests(work_dir, step):
    state = json.loads((work_dir / f"checkpoints/step_{step:08d}/state.json").read_text())
    return state["files"]


def test_killed_at_a_random_step_and_resumed_it_ends_the_same(tmp_path):
    options = ["train_cfg.max_iters=40", "train_cfg.checkpoint_interval=4"]
    options += ["train_dataloader.batch_size=64", "evaluation.evaluators={}"]
    options += ["model.objectives.nn_queue.size=256"]  # full, and overwritten, within the run
    assert start("declip_r50_laptop", tmp_path / "whole", *options).wait(900) == 0
    run = start("declip_r50_laptop", tmp_path / "killed", *options)
    while not (tmp_path / "killed/checkpoints/step_00000012").exists():
        assert run.poll() is None
        time.sleep(0.05)
    time.sleep(random.uniform(0, 3))
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert start("declip_r50_laptop", tmp_path / "killed", *options, resume=True).wait(900) == 0
    assert digests(tmp_path / "killed", 40) == digests(tmp_path / "whole", 40)


def test_clip_learns_concepts_that_it_has_never_seen(tmp_path):
    options = ["train_cfg.max_iters=240", "evaluation.interval=0", "evaluation.before=False"]
    options += ["evaluation.evaluators.knn_pixels=None", "evaluation.evaluators.retrieval=None"]
    assert start("clip_r50_laptop", tmp_path / "run", *options).wait(1500) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    losses = [line["clip.loss"] for line in lines if "clip.loss" in line]
    assert losses[0] > 4.5 and losses[-1] < 3
    # Chance is 2.5; a third of the usual run already gives some 15.
    unseen = [lines[-1][f"zero_shot/unseen/{name}/top5"] for name in ("noto-v1", "fluent-flat")]
    assert sum(unseen) / 2 > 7.5


FULL_WIDTH = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
FULL_WIDTH = [name for name in FULL_WIDTH if not name.endswith("_laptop")]


@pytest.mark.parametrize("config", FULL_WIDTH)
def test_the_full_width_configs_train_a_step(config, tmp_path):
    options = ["train_cfg.max_iters=1", "train_dataloader.batch_size=16"]
    assert start(config, tmp_path, *options, "evaluation.evaluators={}").wait(900) == 0
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").open())
    assert line["skipped"] == 0 and line["grad_norm"] > 0
