"""Signals: a run finishes its step, saves and says by its exit code that it may go on."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from mmengine.hooks import Hook

from webssl_toolbox.engine.preempt import SIGNALS, Stopped
from webssl_toolbox.engine.runner import Runner
from webssl_toolbox.registry import EVALUATORS

from .test_runner import ROOT, config, rows

ENV = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class Sends(Hook):
    """Sends signals to this process, and to the workers of its loader, within a step."""

    def __init__(self, step, *signals, workers=False):
        self.step, self.signals, self.workers = step, signals, workers

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx + 1 == self.step:
            for signum in self.signals:
                for worker in multiprocessing.active_children() if self.workers else ():
                    os.kill(worker.pid, signum)
                os.kill(os.getpid(), signum)


def train(work_dir, *hooks, resume=False, **changes):
    runner = Runner(config(**changes), work_dir, resume=resume)
    runner.hooks += hooks
    runner.train()
    return runner.digest()


def steps(work_dir):
    return [int(p.name[5:]) for p in sorted((work_dir / "checkpoints").glob("step_*"))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGTERM], 75),
        ([signal.SIGINT], 130),
        ([signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM], 75),  # a launcher that passes it on
    ],
)
def test_the_step_is_finished_and_saved_and_the_run_goes_on(tmp_path, caplog, whole, signals, code):
    handlers = [signal.getsignal(signum) for signum in SIGNALS]
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path, Sends(3, *signals))
    assert isinstance(stopped.value, Stopped) and stopped.value.code == code
    assert [signal.getsignal(signum) for signum in SIGNALS] == handlers
    assert steps(tmp_path) == [2, 3]
    said = f"{signals[0].name}: step 3 is saved in {tmp_path}, --resume continues"
    assert said in caplog.text and f"exit code {code}" in caplog.text
    if len(signals) > 1:  # once is enough
        assert train(tmp_path, resume=True) == whole
        assert [line["step"] for line in rows(tmp_path)] == [2, 3, 4, 6]


def test_workers_outlive_what_a_scheduler_sends_to_all_processes(tmp_path, whole):
    others = set(multiprocessing.active_children())  # of tests before, in this process
    with pytest.raises(Stopped):
        train(tmp_path, Sends(3, *SIGNALS, workers=True), train_dataloader__num_workers=2)
    assert steps(tmp_path) == [2, 3]
    patience = time.monotonic() + 30  # torch itself has 5 seconds, which a busy machine may need
    while set(multiprocessing.active_children()) - others and time.monotonic() < patience:
        time.sleep(0.1)
    assert set(multiprocessing.active_children()) <= others  # torch would wait for them at the exit
    assert train(tmp_path, resume=True) == whole


@EVALUATORS.register_module()
class Endless:
    """An evaluation that would not end in time."""

    def run(self, model):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        return {"a/top1": 1.0}


def test_an_evaluation_is_left_out_for_a_signal(tmp_path, whole):
    began = time.monotonic()
    changes = dict(
        test_view=[dict(type="ResizeCenterCrop"), dict(type="Normalize")],
        evaluation=dict(evaluators=dict(x=dict(type="Endless")), interval=3, before=False),
    )
    with pytest.raises(Stopped):
        train(tmp_path, **changes)
    assert time.monotonic() - began < 50
    assert steps(tmp_path) == [2, 3]
    assert not [line for line in rows(tmp_path) if "x/a/top1" in line]
    assert train(tmp_path, resume=True) == whole


TWICE = """
import os, signal, sys, time, torch
from webssl_toolbox.engine.preempt import Preemption
stop = Preemption(torch.device("cpu"))
stop.listen()
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(1.1)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""


def test_a_second_signal_ends_the_process_at_once():
    done = subprocess.run([sys.executable, "-c", TWICE], env=ENV, timeout=50, check=False)
    assert done.returncode == -signal.SIGTERM


# -- processes -----------------------------------------------------------------------------------

# Three runs in one pair of processes, as to start them is what takes long.
RANKS = """
import json, signal, sys, torch
from pathlib import Path
from tests.test_signals import Sends, Stopped, steps, train
from webssl_toolbox import dist
torch.set_num_threads(1)
work = Path(sys.argv[1])
whole = train(work / "whole")
hooks = [Sends(3, signal.SIGTERM)] if dist.rank() == 1 else []
try:
    train(work / "stopped", *hooks)
    code = 0
except Stopped as stopped:
    code = stopped.code
saved = steps(work / "stopped")
resumed = train(work / "stopped", resume=True)
told = dict(code=code, saved=saved, equal=resumed == whole)
Path(work, f"told{dist.rank()}.json").write_text(json.dumps(told))
dist.shutdown()
"""


@pytest.mark.slow
def test_ranks_stop_at_the_same_step_when_one_hears_a_signal(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", RANKS, str(tmp_path)]
    ranks = [
        subprocess.Popen(command, cwd=ROOT, env=ENV | place | {"RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(300) for process in ranks] == [0, 0]
    told = [json.loads((tmp_path / f"told{rank}.json").read_text()) for rank in range(2)]
    assert told == [dict(code=75, saved=[2, 3], equal=True)] * 2
