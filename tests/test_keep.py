"""Which checkpoints of a run stay: the newest, every Nth and the best."""

import json
import os
import signal

import pytest

from webssl_toolbox.engine import checkpoint
from webssl_toolbox.engine.preempt import Stopped
from webssl_toolbox.engine.start import newest
from webssl_toolbox.registry import EVALUATORS

from .test_runner import rows
from .test_signals import Sends, steps, train


@EVALUATORS.register_module()
class Scripted:
    """Scores that are known in advance, by how often they were asked for."""

    def __init__(self, scores):
        self.scores = list(scores)

    def run(self, model):
        return {"a/top1": self.scores.pop(0)}


def changes(scores, metric="x/a/top1", **more):
    return dict(
        test_view=[dict(type="ResizeCenterCrop"), dict(type="Normalize")],
        evaluation=dict(
            evaluators=dict(x=dict(type="Scripted", scores=scores)), interval=1, before=False
        ),
        train_cfg__checkpoint_interval=1,
        hooks=dict(best=dict(type="KeepBest", metric=metric)),
        **more,
    )


def best(work_dir):
    (path,) = (work_dir / "best/checkpoints").iterdir()
    assert newest(work_dir / "best") == path
    assert checkpoint.verify(path)["step"] == int(path.name[5:])
    return int(path.name[5:]), json.loads((path / "metrics.json").read_text())


def test_the_newest_and_every_nth_stay(tmp_path):
    train(tmp_path, train_cfg__checkpoint_interval=1, train_cfg__keep_every=3)
    assert steps(tmp_path) == [3, 5, 6]


def test_the_best_stays_though_the_run_deletes_it(tmp_path):
    train(tmp_path, **changes([2.0, 5.0, 1.0, 5.0, float("nan"), 3.0]))
    assert steps(tmp_path) == [5, 6]
    assert best(tmp_path) == (2, {"x/a/top1": 5.0})  # the first of equals


def test_the_best_is_known_after_a_stop(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, Sends(4, signal.SIGTERM), **changes([2.0, 5.0, 1.0]))
    assert best(tmp_path)[0] == 2 and steps(tmp_path) == [3, 4]
    train(tmp_path, resume=True, **changes([4.0, 7.0]))
    assert best(tmp_path) == (6, {"x/a/top1": 7.0})
    assert [row["x/a/top1"] for row in rows(tmp_path) if "x/a/top1" in row] == [2, 5, 1, 4, 7]


def test_a_file_system_without_links_gets_a_copy(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    train(tmp_path, **changes([1.0, 3.0, 2.0, 2.0, 2.0, 2.0]))
    assert best(tmp_path)[0] == 2


@pytest.mark.parametrize(
    ("metric", "interval", "said"),
    [
        ("y/a/top1", 1, r"no evaluator is named 'y'; valid names: x"),
        ("x/a/top5", 1, r"'x/a/top5' is not among the metrics.*'x/a/top1'"),
        ("x/a/top1", 4, r"evaluation.interval=1 must be a multiple .*checkpoint_interval=4"),
    ],
)
def test_what_would_keep_nothing_is_refused(tmp_path, metric, interval, said):
    options = changes([1.0] * 6, metric) | dict(train_cfg__checkpoint_interval=interval)
    with pytest.raises(ValueError, match=said):
        train(tmp_path, **options)


def test_a_run_that_goes_on_is_not_finished(tmp_path):
    train(tmp_path, **changes([1.0] * 6))
    assert (tmp_path / "results.md").exists()
    longer = changes([1.0] * 8) | dict(train_cfg__max_iters=8)
    with pytest.raises(Stopped):
        train(tmp_path, Sends(7, signal.SIGTERM), resume=True, **longer)
    assert not (tmp_path / "results.md").exists()


def test_a_metric_without_data_trains_on_and_is_named_in_the_table(tmp_path):
    options = changes([None] * 6) | dict(vis_backends=dict(t=dict(type="TensorboardVisBackend")))
    with pytest.raises(ValueError, match="'x/a/top1' is not among the metrics"):
        train(tmp_path / "kept", **options)
    train(tmp_path / "run", **options | dict(hooks={}))
    assert "x/a/top1" not in (tmp_path / "run/metrics.jsonl").read_text()
    assert "| missing |" in (tmp_path / "run/results.md").read_text()
