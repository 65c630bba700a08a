"""Suites of published data sets, their configs and their document, and what is missing."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from webssl_plugins.datasets._published import SETS
from webssl_plugins.evaluators._metrics import METRICS
from webssl_plugins.hooks._table import headlines, to_markdown
from webssl_toolbox.encoder import EncodedSplit
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.evaluation.runner import Evaluation
from webssl_toolbox.registry import DATASETS, EVALUATORS

from . import published_data
from .published_data import colour, samples

ROOT = Path(__file__).parents[1]
SUITES = ["declip_11", "slip_26", "imagenet_robustness", "retrieval_coco_flickr"]

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with a few pictures of most data sets."""
    return published_data.everything(tmp_path_factory.mktemp("published"))


# -- suites ------------------------------------------------------------------------------------


class Seer:
    """Knows the colour of every class: an encoder that is always right."""

    device = torch.device("cpu")

    def __init__(self):
        self.asked = []

    def forget(self):
        pass

    def encode_text(self, texts):
        return F.normalize(torch.tensor([colour(text) for text in texts]).float() - 127.5, dim=1)

    def classifier(self, names, templates):
        self.asked.append([template.format(names[0]) for template in templates])
        return self.encode_text(names)

    def encode_dataset(self, cfg):
        dataset = DATASETS.create(cfg, "dataset")
        found = samples(dataset)
        means = torch.tensor(np.stack([s.image.reshape(-1, 3).mean(0) for s in found])).float()
        return EncodedSplit(
            means,
            F.normalize(means - 127.5, dim=1),
            torch.tensor([s.label for s in found]),
            [s.captions[0] if s.captions else "" for s in found],
            dataset.classes,
            range(len(found)),
        )


class Colours(Seer):
    """Gives pixels as features, and guesses names."""

    def encode_dataset(self, cfg):
        dataset = DATASETS.create(cfg, "dataset")
        found = samples(dataset)
        pixels = torch.tensor(np.stack([s.image[..., 0].reshape(-1) for s in found])).float()
        labels = torch.tensor([s.label for s in found])
        vectors = F.normalize(pixels[:, :3] + 1, dim=1)
        captions = [""] * len(found)
        return EncodedSplit(pixels, vectors, labels, captions, dataset.classes, range(len(found)))


def evaluate(suite, root, model=None):
    cfg = load_config(ROOT / f"configs/eval/{suite}.py", [f"data_root={root}"])
    return Evaluation(cfg["evaluation"]["evaluators"]).run(model or Seer())[0]


def test_declips_suite_is_whole_and_right(stored):
    model = Seer()
    metrics = evaluate("declip_11", stored, model)
    assert set(metrics.values()) == {100.0} and len(metrics) == 12
    assert metrics["zero_shot/average/11_of_11"] == 100
    assert "zero_shot/pets/mean_per_class" in metrics and "zero_shot/cars/top1" in metrics
    assert ["a photo of apple pie, a type of food."] in model.asked
    assert sorted(map(len, model.asked)) == [1, 1, 1, 2, 2, 8, 8, 18, 18, 34, 80]


def test_slips_suite_says_what_is_missing(stored, caplog):
    with caplog.at_level(logging.WARNING):
        metrics = evaluate("slip_26", stored)
    absent = "fer2013 stl10 resisc45 gtsrb kitti_distance patch_camelyon kinetics700 clevr_counts"
    absent = [*absent.split(), "rendered_sst2"]
    assert [key.split("/")[1] for key, value in metrics.items() if value is None] == absent
    assert len(metrics) == 27 and metrics["zero_shot/hateful_memes/roc_auc"] == 100
    values = [v for key, v in metrics.items() if v is not None and "average" not in key]
    assert metrics["zero_shot/average/17_of_26"] == pytest.approx(np.mean(values))
    assert (
        f"stl10 is missing ({stored}/stl10/test: no such folder); in {stored}, write" in caplog.text
    )
    assert json.loads(json.dumps(metrics))["zero_shot/stl10/top1"] is None
    row = next(line for line in to_markdown(metrics, {}).splitlines() if "stl10" in line)
    assert row.split("|")[-2].strip() == "missing"
    assert "stl10 missing" in headlines(metrics)[0]


def test_imagenets_relatives(stored):
    metrics = evaluate("imagenet_robustness", stored)
    assert metrics["zero_shot/imagenet_v2/top1"] == metrics["zero_shot/objectnet/top1"] == 100
    assert metrics["zero_shot/imagenet_r/top1"] is None
    assert metrics["zero_shot/average/4_of_6"] == 100


def test_retrieval_takes_all_captions_of_the_test_images(stored):
    class Reader(Seer):
        def encode_text(self, texts):
            assert len(texts) == 10, "two images of five captions; others are not of the test split"
            owners = [re.fullmatch(r"Caption \d of (\d)\.", text)[1] for text in texts]
            owners[:2] = ["2", "2"]  # two captions of image 1 are taken for the other's
            return super().encode_text([f"image {owner}" for owner in owners])

    metrics = evaluate("retrieval_coco_flickr", stored, Reader())
    for name in ("coco", "flickr30k"):
        assert metrics[f"retrieval/{name}/t2i_r1"] == 80
        assert metrics[f"retrieval/{name}/i2t_r10"] == metrics[f"retrieval/{name}/t2i_r5"] == 100


@pytest.mark.parametrize("suite", SUITES)
def test_without_a_folder_all_is_missing(suite, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        metrics = evaluate(suite, tmp_path / "none")
    assert metrics and set(metrics.values()) == {None}
    sets = {key.split("/")[1] for key in metrics} - {"average"}
    said = [record.getMessage().split(" is missing")[0] for record in caplog.records]
    assert sorted(said) == sorted(sets)
    assert all(f"; in {tmp_path}/none, " in record.getMessage() for record in caplog.records)


def test_an_evaluator_whose_data_are_missing_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        metrics = evaluate("anywhere", tmp_path / "none", Colours())
    assert metrics["knn_fashion/fashion_mnist/data"] is None
    assert metrics["knn_digits/digits/top1"] > 90, "raw pixels"
    assert metrics["zero_shot/fashion_mnist/top1"] is None
    assert metrics["zero_shot/average/1_of_2"] == metrics["zero_shot/digits/top1"]
    assert "evaluator knn_fashion: fashion_mnist is missing" in caplog.text


def test_the_linear_suite_fits_each_set_on_its_own_training_images(stored):
    cfg = load_config(ROOT / "configs/eval/declip_11_linear.py", [f"data_root={stored}"])
    probes = {n: p for n, p in cfg["evaluation"]["evaluators"].items() if p is not None}
    assert len(probes) == 11
    for name, probe in probes.items():
        name = name.removeprefix("linear_")
        test = dict(type="Published", name=name, root=str(stored))
        assert probe["splits"] == {name: test} and probe["train"] == test | dict(split="train")
        DATASETS.create(probe["train"], "train")
    found = Evaluation({"linear": probes["linear_cifar10"]}).run(Seer())[0]
    assert found["linear/cifar10/top1"] == 100


def test_the_suites_have_the_published_sets():
    def splits(suite):
        cfg = load_config(ROOT / f"configs/eval/{suite}.py")["evaluation"]["evaluators"]
        return cfg["zero_shot"]["splits"]

    assert (len(splits("declip_11")), len(splits("slip_26"))) == (11, 26)
    special = {n: s["metric"] for n, s in splits("slip_26").items() if s["metric"] != "top1"}
    assert special == dict(
        aircraft="mean_per_class",
        pets="mean_per_class",
        caltech101="mean_per_class",
        flowers102="mean_per_class",
        kinetics700="top1_top5",
        hateful_memes="roc_auc",
    )


@pytest.mark.parametrize(
    ("split", "says"),
    [
        (dict(templates="mnist"), "needs the argument 'dataset'"),
        (dict(dataset=dict(type="Digits"), templates="minst"), "did you mean 'mnist'"),
        (
            dict(dataset=dict(type="Digits"), templates="mnist", metric="top2"),
            "did you mean 'top1'",
        ),
        (dict(dataset=dict(type="Digit"), templates="mnist"), r"splits\['x'\].dataset.type"),
        (dict(dataset=dict(type="Digits"), template="mnist"), "did you mean 'templates'"),
    ],
)
def test_mistakes_in_a_suite(split, says):
    with pytest.raises(ValueError, match=says):
        EVALUATORS.create(dict(type="ZeroShotSuite", splits=dict(x=split)), "evaluators.x")


# -- the document ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_the_document_has_a_row_for_each_set(name):
    sets = load_config(ROOT / "configs/eval/_base_/image_sets.py")["_sets"]
    metric = sets[name]["metric"] if name in sets else "recall"
    text = (ROOT / "docs/suites.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    recipe = SETS[name]
    assert row.endswith(f"| {metric} | {'yes' if recipe.train else 'no'} | {recipe.get} |")


def test_the_document_names_every_config_and_metric():
    text = (ROOT / "docs/suites.md").read_text(encoding="utf-8")
    for path in (ROOT / "configs/eval").glob("*.py"):
        if "Published" in path.read_text("utf-8") or "image_sets" in path.read_text("utf-8"):
            assert f"| `{path.name}` |" in text
    for metric in METRICS:
        assert f"| `{metric}` |" in text
