"""The runner: losses fall, runs resume exactly, ranks equal one process, bad steps are skipped."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from safetensors.torch import load_file

from webssl_toolbox import dist
from webssl_toolbox.data import loader
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.engine import checkpoint
from webssl_toolbox.engine.finite import NonFinite
from webssl_toolbox.engine.runner import Runner
from webssl_toolbox.registry import DATASETS

from . import cases

ROOT = Path(__file__).parents[1]
WORDS = "red green blue dark light big small round flat long old new cat dog car tree"


@DATASETS.register_module()
class Stripes:
    """Forty striped pictures; the words of a caption say which stripes."""

    classes: tuple = ()
    synonyms: dict = {}

    def __len__(self):
        return 40

    def load(self, index, rng):
        pattern = np.random.default_rng(index)
        image = np.repeat(pattern.integers(0, 256, (9, 1, 3)), 4, axis=0).repeat(36, axis=1)
        words = pattern.choice(WORDS.split(), size=3 + index % 5)
        return Sample(image.astype(np.uint8), (" ".join(words), "a " + " ".join(words)), index % 4)


def config(**changes):
    image = [
        dict(type="RandomResizedCrop", size=32, scale=(0.5, 1.0)),
        dict(type="ColorJitter"),
        dict(type="Normalize"),
    ]
    text = [dict(type="Caption", pick="random"), dict(type="Tokenize")]
    cfg = dict(
        model=dict(cases.DECLIP.model),
        train_dataloader=dict(
            dataset=dict(type="Stripes"),
            batch_size=8,
            num_workers=0,
            views=dict(
                v1=image,
                v2=image,
                text=text,
                text_aug=[text[0], dict(type="EDA"), text[1]],
                text_mlm=[*text, dict(type="MaskTokens", prob=0.3)],
            ),
        ),
        optim_wrapper=dict(
            optimizer=dict(type="AdamW", lr=dict(type="cosine", start=1e-3, warmup=2)),
            clip_grad=1.0,
            precision="fp32",
        ),
        train_cfg=dict(max_iters=6, log_interval=2, checkpoint_interval=2),
    )
    return changed(cfg, **changes)


def changed(cfg, **changes):
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = cfg
        for key in parents:
            node[key] = dict(node[key])
            node = node[key]
        node[last] = value
    return cfg


def rows(work_dir):
    return [json.loads(line) for line in (work_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_what_it_promises(tmp_path):
    Runner(config(), tmp_path).train()
    lines = rows(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6]
    losses = {"clip.loss", "multi_view.loss", "simsiam.loss", "mlm.loss", "nn_queue.loss"}
    assert losses | {"grad_norm", "lr", "samples_per_s", "data_wait", "skipped"} <= lines[0].keys()
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step_00000004",
        "step_00000006",
    ]
    with pytest.raises(FileExistsError, match="--resume"):
        Runner(config(), tmp_path)


def test_another_number_of_samples_is_said_and_refused_where_ranks_differ(
    tmp_path, caplog, monkeypatch
):
    Runner(config(), tmp_path).train()
    monkeypatch.setattr(checkpoint, "load", lambda *_: {"step": 4, "samples": 9})
    runner = Runner(config(), tmp_path, resume=True)
    assert "it saw 9 samples, now there are 40: in another order" in caplog.text
    monkeypatch.setattr(dist, "gather_json", lambda own: [own, own - 1])
    with pytest.raises(ValueError, match=r"ranks see \[40, 39\] samples; give all ranks"):
        runner.train()


def test_a_mistake_in_the_test_view_is_named_there(tmp_path):
    view = [dict(type="ResizeCenterCrop", size=32, resize=16)]
    with pytest.raises(ValueError, match=r"^test_view\[0\]: resize must be"):
        Runner(config(test_view=view), tmp_path)


def test_each_loss_falls_on_fixed_inputs(tmp_path):
    runner = Runner(config(train_cfg__max_iters=60), tmp_path)
    batch = next(loader.batches(runner.dataset, runner.views, 8, 0))
    history = {}
    runner.model.train()
    runner.reporter = _Silent()
    for _ in range(60):
        logs, _ = runner._step(runner.model, iter([dict(batch)]))
        for name, value in logs.items():
            history.setdefault(name, []).append(float(value))
    for name in ("clip", "multi_view", "simsiam", "mlm"):
        values = history[f"{name}.loss"]
        assert values[-1] < values[0] - 0.1 * abs(values[0]), (name, values[0], values[-1])
    active = [v for v in history["nn_queue.loss"] if v]
    assert history["nn_queue.loss"][0] == 0 and len(active) == 59
    assert active[-1] < 0.9 * active[0]


class _Silent:
    def waited(self, seconds):
        pass


def test_resume_is_exact_at_any_step(tmp_path):
    whole = Runner(config(), tmp_path / "whole")
    whole.train()
    for stop in (1, 3, 4):
        first = Runner(config(train_cfg__checkpoint_interval=stop), tmp_path / str(stop))
        first.call_hook = _stop_after(stop)
        with pytest.raises(KeyboardInterrupt):
            first.train()
        resumed = Runner(config(), tmp_path / str(stop), resume=True)
        assert resumed.iter == stop
        resumed.train()
        assert resumed.digest() == whole.digest()


def _stop_after(step):
    def call_hook(name, batch_idx=0, **_):
        if name == "before_train_iter" and batch_idx == step:
            raise KeyboardInterrupt

    return call_hook


class Poison(Hook):
    """Makes the temperature infinite after two good steps, and sees that nothing else changes."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == 2:
            self.good = self.state(runner)
        if batch_idx >= 2:
            with torch.no_grad():
                runner.model.spaces["joint"].logit_scale.fill_(float("nan"))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx >= 2:
            for name, value in self.state(runner).items():
                assert torch.equal(value, self.good[name]), name

    def state(self, runner):
        state = runner.model.state_dict()
        return {name: value.clone() for name, value in state.items() if "logit_scale" not in name}


def test_a_step_that_is_not_finite_is_skipped_and_many_stop_the_run(tmp_path):
    runner = Runner(config(train_cfg__max_iters=40, train_cfg__max_skipped=5), tmp_path)
    runner.hooks = [Poison()]
    with pytest.raises(NonFinite, match=r"clip.loss.*lr"):
        runner.train()
    assert 2 + 5 <= runner.iter <= 3 + 5  # the flag is read one step late


def test_an_untrained_parameter_is_named(tmp_path):
    objectives = dict(nn_queue=dict(type="NNQueue", size=8))
    with pytest.raises(ValueError, match=r"no objective trains towers\.text, "):
        Runner(config(model__objectives=objectives), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- processes -----------------------------------------------------------------------------------

DRIVER = """
import sys, json, torch
from pathlib import Path
from tests.test_runner import config
from webssl_toolbox import dist
from webssl_toolbox.engine.runner import Runner
torch.set_num_threads(1)
work, changes, double = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3] == "double"
runner = Runner(config(**changes), work, resume=True)
if double:
    torch.set_default_dtype(torch.float64)
    runner.model.double()
    finish = runner.views.finish
    runner.views.finish = lambda batch: {
        k: v.double() if v.is_floating_point() else v for k, v in finish(batch).items()
    }
runner.train()
digest = runner.digest()
if dist.rank() == 0:
    Path(work, "digest.json").write_text(json.dumps(digest))
dist.shutdown()
"""


def launch(work, changes, precision="single", ranks=1):
    argv = ["-c", DRIVER, str(work), json.dumps(changes), precision]
    if ranks > 1:
        script = work.parent / f"driver_{work.name}.py"
        script.write_text(DRIVER)
        argv = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        argv += [str(script), str(work), json.dumps(changes), precision]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *argv], env=env, cwd=ROOT, start_new_session=True)


def finish(process):
    assert process.wait(timeout=300) == 0


@pytest.mark.parametrize(
    ("precision", "steps", "bound"), [("double", 20, 1e-9), ("single", 1, 1e-5)]
)
def test_torchrun_on_two_ranks_equals_one_process(tmp_path, precision, steps, bound):
    changes = dict(train_cfg__max_iters=steps, train_cfg__log_interval=1)
    if precision == "single":
        # Adam's first step is the gradient's sign, which rounding decides where it is about zero.
        changes["optim_wrapper__optimizer"] = dict(type="SGD", lr=0.1)
    runs = [launch(tmp_path / f"ranks{n}", changes, precision, n) for n in (1, 2)]
    for run in runs:
        finish(run)
    one, two = (rows(tmp_path / f"ranks{n}") for n in (1, 2))
    assert len(one) == len(two) == steps
    for first, second in zip(one, two, strict=True):
        for name in ("clip.loss", "multi_view.loss", "simsiam.loss", "mlm.loss", "nn_queue.loss"):
            error = abs(first[name] - second[name]) / max(1, abs(first[name]))
            assert error <= max(bound, 2e-6), name  # six decimals are written
    states = [checkpoint.latest(tmp_path / f"ranks{n}" / "checkpoints") for n in (1, 2)]
    first, second = (load_file(state / "model.safetensors") for state in states)
    for name, value in first.items():
        scale = value.double().abs().max().clamp(min=1)
        error = (value.double() - second[name].double()).abs().max() / scale
        assert error < bound, (name, float(error))


def test_killed_and_resumed_ends_as_if_never_stopped(tmp_path):
    changes = dict(train_cfg__max_iters=30, train_cfg__checkpoint_interval=3)
    finish(launch(tmp_path / "whole", changes))
    killed = launch(tmp_path / "killed", changes)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "killed").glob("checkpoints/step_*")):
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.05)
    time.sleep(random.uniform(0, 0.5))
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    finish(launch(tmp_path / "killed", changes))
    digests = [(tmp_path / name / "digest.json").read_text() for name in ("whole", "killed")]
    assert digests[0] == digests[1]


def test_ranks_that_find_other_checkpoints_stop(tmp_path, monkeypatch):
    """As on two hosts without a common disk: one resumes, and the other would begin anew."""
    monkeypatch.setattr(dist, "gather_json", lambda step: [step, 400])
    with pytest.raises(ValueError, match=r"checkpoints of the steps \[0, 400\] .*same work dir"):
        Runner(config(), tmp_path)
