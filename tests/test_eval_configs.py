"""The configs of probes: the published recipes on a tiny folder, and raw pixels by all of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from webssl_plugins.evaluators._heads import LinearHeads
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.evaluation.runner import Evaluation
from webssl_toolbox.loading import build
from webssl_toolbox.registry import EVALUATORS

CONFIGS = Path(__file__).parents[1] / "configs/eval"
VIT = dict(type="ViT", patch_size=8, width=16, depth=4, heads=2, input_size=32)
VIEW = [dict(type="ResizeCenterCrop", resize=40, interpolation="cubic"), dict(type="Normalize")]


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """ImageNet's layout: synsets, and files in capitals; a class is a colour."""
    root = tmp_path_factory.mktemp("imagenet")
    draws = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for i, synset in enumerate(("n01440764", "n01443537", "n01484850")):
            folder = root / part / synset
            folder.mkdir(parents=True)
            for n in range(count):
                image = draws.integers(0, 120, (48, 56, 3), np.uint8)
                image[..., i] += np.uint8(120)
                Image.fromarray(image).save(folder / f"{synset}_{n}.JPEG")
    return root


def evaluate(name, root, *options, tower=VIT):
    cfg = load_config(CONFIGS / f"{name}.py", [f"data_root={root}", *options])
    model = build(dict(model=dict(towers=dict(image=tower)), test_view=VIEW))
    metrics, pictures = Evaluation(cfg["evaluation"]["evaluators"]).run(model)
    assert not pictures and all(0 <= value <= 100 for value in metrics.values())
    return metrics


@pytest.mark.parametrize("name", ["imagenet_linear", "imagenet_linear_mae"])
def test_linear_recipes_take_two_steps(name, imagenet, monkeypatch):
    steps, update = [], LinearHeads.update

    def counted(self, features, labels, step, total):
        steps.append((step, total, len(labels)))
        update(self, features, labels, step, total)

    monkeypatch.setattr(LinearHeads, "update", counted)
    few = dict(batch_size=8, epochs=1, workers=0, validation=0.25)
    options = [f"evaluation.evaluators.linear.{key}={value}" for key, value in few.items()]
    found = evaluate(name, imagenet, *options)
    assert steps == [(0, 2, 8), (1, 2, 8)]
    assert found.keys() == {"linear/validation/top1", "linear/val/top1"}


def test_neighbours_of_imagenet(imagenet):
    found = evaluate("imagenet_knn", imagenet, "evaluation.evaluators.knn.shots=[1]")
    plain = ["top1", "top1_k10", "top1_k100", "top1_k200"]
    shots = ["top1_1shot", "top1_1shot_k10", "top1_1shot_k100", "top1_1shot_k200"]
    assert list(found) == [f"knn/val/{name}" for name in plain + shots]


def test_logistic_regression_of_imagenet(imagenet):
    cfg = load_config(CONFIGS / "imagenet_logistic.py")
    penalties = cfg["evaluation"]["evaluators"]["logistic"]["cs"]
    np.testing.assert_allclose(penalties, np.logspace(-6, 5, 45))
    found = evaluate("imagenet_logistic", imagenet, "evaluation.evaluators.logistic.cs=[0.01,1]")
    assert found["logistic/val/top1"] > 60


def test_published_numbers():
    """Facts of the papers and their code."""

    def linear(name):
        cfg = load_config(CONFIGS / f"{name}.py")["evaluation"]["evaluators"]["linear"]
        return EVALUATORS.create(cfg, "linear")

    dinov2, mae = linear("imagenet_linear"), linear("imagenet_linear_mae")
    assert len(dinov2.rates) * len(dinov2.blocks) * len(dinov2.means) == 52
    assert dinov2.batch_size * 1250 == pytest.approx(1_281_167, rel=2e-3), "an epoch of its code"
    assert mae.rates[0] * mae.batch_size / 256 == pytest.approx(6.4)
    assert (mae.epochs, mae.warmup, mae.lars, mae.batch_norm) == (90, 10, True, True)


@pytest.mark.slow
def test_raw_pixels_by_every_probe():
    options = ["linear.epochs=2", "attentive.epochs=1", "logistic.cs=[0.001]", "knn.shots=[]"]
    options = [f"evaluation.evaluators.{option}" for option in options]
    evaluators = load_config(CONFIGS / "probes_emoji.py", options)["evaluation"]["evaluators"]
    model = build(load_config(CONFIGS / "models/pixels.py"))
    found, pictures = Evaluation(evaluators).run(model)
    measured = {tuple(key.split("/")[:2]) for key in found}
    for probe in ("knn", "logistic", "linear", "attentive", "dense"):
        for split in ("noto-v1", "fluent-flat", "fluent-high-contrast"):
            assert (probe, split) in measured
    assert not any(key.startswith(("zero_shot", "retrieval")) for key in found), "it reads no text"
    # What PixelNeighbour says of the same pictures, shrunk in another way.
    assert found["knn/noto-v1/top1"] == pytest.approx(60.5, abs=3)
    assert "dense/scenes" in pictures
