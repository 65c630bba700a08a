"""Every shipped method resumes exactly, wherever it is killed, for any number of workers.

The configs are those that ship, with smaller towers, so that a step takes milliseconds. Runs are
forks of one process that has imported what they need, and that is killed is a real SIGKILL.
"""

import importlib
import json
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest
import torch

from webssl_toolbox import dist
from webssl_toolbox.engine import checkpoint
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.runner import Runner

from .test_signals import ENV, ROOT

CONFIGS = sorted((ROOT / "configs").glob("*_laptop.py"))
STEPS = 6

SMALLER = {
    "ViT": dict(width=32, depth=2, heads=2),
    "CLIPResNet": dict(depths=(1, 1, 1, 1), width=8),
    "TextTransformer": dict(width=32, depth=1, heads=2, vocab_size=600),
    "Fusion": dict(width=32, depth=2, heads=2, vocab_size=600),
    "MaskDecoder": dict(dim=32, depth=1, heads=2),
    "Prototypes": dict(count=32, hidden=32, bottleneck=16),
    "NNQueue": dict(size=16),  # full, and overwritten, within the run
    "SimSiam": dict(dim=32, hidden=16),
    "SimCLR": dict(dim=16, hidden=32),
}


def shrunk(path, workers):
    """Loads a shipped config with what a user would type to make it small."""
    options = ["train_dataloader.batch_size=8", f"train_dataloader.num_workers={workers}"]
    options += ["evaluation.evaluators={}", f"train_cfg.max_iters={STEPS}"]
    options += ["train_cfg.checkpoint_interval=1", "optim_wrapper.precision=fp32"]
    cfg = load_config(path)
    for section in ("towers", "spaces", "objectives"):
        for name, part in cfg["model"].get(section, {}).items():
            smaller = SMALLER.get(part["type"], {}) if part else {}
            smaller |= {"every": 2} if part and "every" in part else {}
            options += [f"model.{section}.{name}.{k}={v!r}" for k, v in smaller.items()]
    for name, group in cfg["optim_wrapper"].get("groups", {}).items():
        if "freeze" in group:
            options.append(f"optim_wrapper.groups.{name}.freeze=2")
    return load_config(path, options)


def run(path, work_dir, workers=0, kill=None, saves=True):
    """Trains; with ``kill=(steps, seconds)`` until so long after so many steps, while it saves."""
    cfg = shrunk(path, workers)
    if not saves:
        cfg["train_cfg"]["checkpoint_interval"] = 0
    runner = Runner(cfg, work_dir, resume=True, device="cpu")
    if kill is not None:
        runner.call_hook = _kill_after(*kill)
    runner.train()
    if kill is not None:
        time.sleep(60)
    digest = runner.digest()
    if dist.rank() == 0:
        (work_dir / "digest.json").write_text(json.dumps(digest))


def _kill_after(steps, seconds):
    end = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))

    def call_hook(name, batch_idx=0, **_):
        if name == "before_train_iter" and batch_idx == steps:
            end.start()
        elif name == "before_train_iter" and batch_idx == steps + 1:
            time.sleep(60)  # until it comes

    return call_hook


def test_a_stop_at_any_step_changes_nothing(tmp_path):
    """A sample, in this process: the method with the most state."""
    (path,) = [path for path in CONFIGS if path.stem.startswith("dinov2_gram")]
    run(path, tmp_path / "whole", saves=False)
    whole = (tmp_path / "whole/digest.json").read_text()
    for stop in (1, STEPS - 1):
        first = Runner(shrunk(path, workers=0), tmp_path / str(stop), device="cpu")
        first.call_hook = _stop_at(stop)
        with pytest.raises(KeyboardInterrupt):
            first.train()
        run(path, tmp_path / str(stop))
        assert (tmp_path / str(stop) / "digest.json").read_text() == whole


def _stop_at(step):
    def call_hook(name, batch_idx=0, **_):
        if name == "before_train_iter" and batch_idx == step:
            raise KeyboardInterrupt

    return call_hook


# -- the matrix ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_config_killed_at_a_random_moment_ends_the_same(tmp_path):
    """Workers 0 and 2, one rank and two; in a process of its own, that torch has not run in."""
    import subprocess

    command = [sys.executable, "-m", "tests.test_resume", str(tmp_path)]
    command += [str(path) for path in CONFIGS]
    done = subprocess.run(command, cwd=ROOT, env=ENV, timeout=1700, check=False)
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    wrong = [row for row in told if not row["equal"]]
    assert done.returncode == 0 and not wrong
    assert len(told) == len(CONFIGS) * len(CELLS)
    assert sum(row["killed"] for row in told) == len(told)
    assert {row["config"] for row in told} == {path.stem for path in CONFIGS}


CELLS = [  # workers, ranks, killed after which step
    *((0, 1, step) for step in range(STEPS)),
    (2, 1, 2),
    (2, 1, 4),
    (0, 2, 3),
    (2, 2, 1),
]


def main(root, configs):
    """Runs the matrix, and writes a line for each cell."""
    root.mkdir(parents=True, exist_ok=True)
    told = (root / "told.jsonl").open("a", buffering=1)
    _import_what_is_needed(root, configs)
    for path in configs:
        whole = {}
        for workers, ranks, step in CELLS:
            if ranks not in whole:
                work = root / path.stem / f"whole{ranks}"
                assert not any(forked(ranks, path, work, saves=False)), work
                whole[ranks] = (work / "digest.json").read_text()
            work = root / path.stem / f"{workers}-{ranks}-{step}"
            kill = step, random.uniform(0, 0.3)
            killed = forked(ranks, path, work, workers=workers, kill=kill)
            found = checkpoint.latest(work / "checkpoints")
            left = int(found.name[5:]) if found else 0
            ended = forked(ranks, path, work, workers=workers)
            row = dict(config=path.stem, workers=workers, ranks=ranks, step=step, left=left)
            row["killed"] = all(status == -signal.SIGKILL for status in killed)
            equal = not any(ended) and left in (step, step + 1)
            row["equal"] = equal and (work / "digest.json").read_text() == whole[ranks]
            told.write(json.dumps(row) + "\n")


def forked(ranks, *arguments, **more):
    """Calls ``run`` in forks, one for each rank; returns how they ended, as Popen tells it.

    When one is killed so are the others, as a launcher does it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    pids = []
    for rank in range(ranks):
        if (pid := os.fork()) == 0:
            os.environ |= place | {"RANK": str(rank)}
            try:
                run(*arguments, **more)
                dist.shutdown()
                os._exit(0)
            except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
                traceback.print_exc()
                os._exit(1)
        pids.append(pid)
    status = {}
    while len(status) < ranks:
        pid, code = os.wait()
        status[pid] = os.waitstatus_to_exitcode(code)
        if status[pid]:
            for other in pids:
                if other not in status:
                    os.kill(other, signal.SIGKILL)
    return [status[pid] for pid in pids]


def _import_what_is_needed(root, configs):
    """Imports what runs import late: a fork of this process then need not."""
    read, write = os.pipe()
    if os.fork() == 0:
        for path in configs:
            run(path, root / "imports" / path.stem, saves=False)
        os.write(write, json.dumps([name for name in sys.modules]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        names = json.loads(stream.read())
    os.wait()
    for name in names:
        if name not in sys.modules and not name.startswith("__"):
            try:
                importlib.import_module(name)
            except ImportError:  # made by hand, as some of torch's are
                continue


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
