"""``tools/test.py`` with the configs of the suites, and the metrics that these report."""

import json
import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from webssl_plugins.evaluators._metrics import METRICS
from webssl_plugins.evaluators._prompts import TEMPLATES, each
from webssl_plugins.evaluators.retrieval import recall
from webssl_toolbox.engine import checkpoint
from webssl_toolbox.registry import MODELS

from . import cases, published_data

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A work dir with a checkpoint of a small model that was not trained."""
    model = dict(
        towers=dict(image=cases.VIT, text=cases.TEXT | dict(vocab_size=49409)),
        spaces=cases.JOINT,
        objectives=dict(clip=dict(type="CLIP")),
    )
    view = [dict(type="ResizeCenterCrop", size=16), dict(type="Normalize")]
    folder = tmp_path_factory.mktemp("run")
    built = MODELS.create({"type": "Pretrainer"} | model, "model")
    cfg = dict(model=model, test_view=view)
    checkpoint.save(folder / "checkpoints", 1, built, meta={"config": cfg})
    return folder


def measured(suite, run, tmp_path):
    file = tmp_path / "metrics.json"
    command = [sys.executable, ROOT / "tools/test.py", ROOT / f"configs/eval/{suite}.py", run]
    command += ["--device", "cpu", "--json", file, "--cfg-options", f"data_root={tmp_path}/sets"]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text()), " ".join((done.stdout + done.stderr).split())


def test_without_data_a_suite_says_what_to_put_where(run, tmp_path):
    metrics, said = measured("declip_11", run, tmp_path)
    assert len(metrics) == 12 and set(metrics.values()) == {None}
    assert said.count("missing │") == 12, "a cell each, and their average"
    assert "unpack food-101.tar.gz of https://data.vision.ee.ethz.ch" in said


@pytest.mark.slow
def test_the_suite_for_anywhere(run, tmp_path):
    published_data.idx(tmp_path / "sets/fashion-mnist")
    metrics, said = measured("anywhere", run, tmp_path)
    assert metrics.pop("zero_shot/average/2_of_2") == pytest.approx(
        (metrics["zero_shot/digits/top1"] + metrics["zero_shot/fashion_mnist/top1"]) / 2
    )
    assert metrics["knn_fashion/fashion_mnist/top1"] <= 100
    assert metrics["knn_digits/digits/top1"] > 50, "even random features tell digits apart"
    assert "missing" not in said


# -- metrics -----------------------------------------------------------------------------------


def rows(classes, count=200):
    """Scores with draws, in float64, and labels that leave out a class."""
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, max(2, classes - 1), count)
    scores = rng.normal(size=(count, classes)) + 0.8 * np.eye(classes)[labels]
    scores = scores.round(1)
    return scores, labels, (torch.tensor(scores), torch.tensor(labels))


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_metrics_equal_those_of_scikit_learn(classes):
    from sklearn import metrics

    scores, labels, both = rows(classes)
    guessed = scores.argmax(1)
    top1 = metrics.accuracy_score(labels, guessed)
    assert METRICS["top1"](*both) == pytest.approx(100 * top1, abs=1e-10)
    recalls = metrics.recall_score(
        labels, guessed, average="macro", labels=np.unique(labels), zero_division=0
    )
    assert METRICS["mean_per_class"](*both) == pytest.approx(100 * recalls, abs=1e-10)
    # Draws between classes would be broken in another order: scores without any.
    scores = scores + np.random.default_rng(0).uniform(0, 1e-6, scores.shape)
    both = (torch.tensor(scores), both[1])
    k = min(5, classes)
    top5 = (
        metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(classes))
        if k < classes
        else 1
    )
    top1 = metrics.accuracy_score(labels, scores.argmax(1))
    assert METRICS["top1_top5"](*both) == pytest.approx(50 * (top1 + top5), abs=1e-10)


def test_the_area_under_the_curve_equals_that_of_scikit_learn():
    from sklearn import metrics

    scores, labels, both = rows(2)
    margin = (scores[:, 1] - scores[:, 0]).round(6)
    assert len(np.unique(margin)) < len(margin), "there are draws"
    wanted = metrics.roc_auc_score(labels, scores[:, 1] - scores[:, 0])
    assert METRICS["roc_auc"](*both) == pytest.approx(100 * wanted, abs=1e-10)
    with pytest.raises(ValueError, match="two classes that both occur"):
        METRICS["roc_auc"](both[0], torch.ones(200, dtype=torch.int64))
    with pytest.raises(ValueError, match="two classes that both occur"):
        METRICS["roc_auc"](*rows(3)[2])


def test_recall_of_several_captions_equals_a_naive_loop():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 6, 30)
    owner = np.repeat(np.arange(30), counts)  # of each text
    images = rng.normal(size=(30, 4))
    texts = images[owner] + rng.normal(size=(len(owner), 4))
    owned = torch.full((30, 5), -1)
    for i in range(30):
        mine = np.flatnonzero(owner == i)
        owned[i, : len(mine)] = torch.tensor(mine)
    found = recall(torch.tensor(images), torch.tensor(texts), owned, chunk=7)
    scores = images @ texts.T
    for k in (1, 5, 10):
        i2t = [bool(set(owner[np.argsort(-row)[:k]]) & {i}) for i, row in enumerate(scores)]
        t2i = [owner[t] in np.argsort(-row)[:k] for t, row in enumerate(scores.T)]
        assert found[f"i2t_r{k}"] == pytest.approx(100 * np.mean(i2t))
        assert found[f"t2i_r{k}"] == pytest.approx(100 * np.mean(t2i))


# -- sentences ---------------------------------------------------------------------------------


def test_sentences_are_those_of_clip():
    (folder,) = find_spec("mmpretrain").submodule_search_locations
    theirs = runpy.run_path(f"{folder}/models/multimodal/clip/utils.py")  # without the rest of it
    for name, list_of_theirs in (
        ("cifar100", "OPENAI_CIFAR100_PROMPT"),
        ("imagenet_7", "OPENAI_IMAGENET_PROMPT_SUB"),
        ("imagenet_80", "OPENAI_IMAGENET_PROMPT"),
    ):
        written = [make("{}") for make in theirs[list_of_theirs]]
        assert sorted(written) == sorted(TEMPLATES[name])


def test_each_list_has_as_many_sentences_as_it_should():
    counts = {name: len(sentences) for name, sentences in TEMPLATES.items()}
    # As many as SLIP's templates.json has, and the files of DeCLIP's code.
    assert (
        counts
        | dict(
            cifar10=18,
            cars=8,
            caltech101=34,
            dtd=8,
            resisc45=18,
            eurosat=3,
            fer2013=6,
            country211=5,
            ucf101=48,
            kinetics700=28,
            imagenet_1=1,
            imagenet_6=6,
            imagenet_8=8,
        )
        == counts
    )
    for name, sentences in TEMPLATES.items():
        assert len(set(sentences)) == len(sentences), name
        assert all(s.count("{}") == 1 and s.format("x") == s.replace("{}", "x") for s in sentences)
        assert "@" not in "".join(sentences)


def test_a_word_of_each_list_takes_the_place_of_a_mark():
    assert each(("@ @ {}.",), ("a", "b"), ("c", "")) == ("a c {}.", "b c {}.", "a  {}.", "b  {}.")
