"""Evaluators against cases worked by hand and naive loops; their runner and the closing table."""

import io
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from webssl_plugins.evaluators._common import class_ids, knn_classify, nearest
from webssl_plugins.evaluators.knn import KNN
from webssl_plugins.evaluators.pixels import PixelNeighbour, pixel_vector
from webssl_plugins.evaluators.retrieval import Retrieval, recall
from webssl_plugins.evaluators.zero_shot import ZeroShot
from webssl_plugins.hooks._table import to_markdown, to_rich
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.encoder import EncodedSplit, MissingPart
from webssl_toolbox.evaluation.runner import Evaluation
from webssl_toolbox.registry import DATASETS, EVALUATORS

RED, BLUE = (255, 0, 0), (0, 0, 255)


class Toy:
    """A dataset of square images, half white and half of one colour."""

    synonyms = {}

    def __init__(self, name="", colours=(), labels=(), classes=()):
        self.colours, self.labels, self.classes = colours, labels, classes

    def __len__(self):
        return len(self.colours)

    def load(self, index, rng):
        image = np.full((8, 8, 3), 255, np.uint8)
        image[:4] = self.colours[index]
        return Sample(image, label=self.labels[index])


class FakeEncoder:
    """Answers from tables: the split of a dataset's name, the vector of a text."""

    def __init__(self, splits=None, texts=None):
        self.splits, self.texts = splits or {}, texts or {}
        self.classified, self.forgotten = 0, 0
        self.device = torch.device("cpu")

    def forget(self):
        self.forgotten += 1

    def encode_dataset(self, cfg):
        return self.splits[cfg["name"]]

    def encode_text(self, texts):
        return torch.stack([self.texts[text] for text in texts])

    def classifier(self, names, templates):
        self.classified += 1
        texts = [template.format(name) for name in names for template in templates]
        return F.normalize(self.encode_text(texts).unflatten(0, (len(names), -1)).mean(1), dim=-1)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(DATASETS._module_dict, "Toy", Toy)


def toy(name, **kwargs):
    return dict(type="Toy", name=name, **kwargs)


def split(features, labels=None, captions=None, classes=(), embeddings=None):
    count = len(features)
    return EncodedSplit(
        torch.as_tensor(features, dtype=torch.float32),
        embeddings,
        torch.tensor([-1] * count if labels is None else labels),
        [""] * count if captions is None else captions,
        classes,
        range(count),
    )


def joint_split(vectors, **kwargs):
    vectors = F.normalize(torch.as_tensor(vectors, dtype=torch.float32), dim=1)
    return split(vectors, embeddings=vectors, **kwargs)


def eye(names):
    return dict(zip(names, torch.eye(len(names)), strict=True))


# --- zero-shot ------------------------------------------------------------------------------------


def test_zero_shot_ranks_classes_and_leaves_unlabelled_rows_out():
    names = list("abcdefg")
    images = [
        [7, 6, 5, 4, 3, 2, 1],  # a: first
        [7, 6, 5, 4, 3, 2, 1],  # e: fifth
        [7, 6, 5, 4, 3, 2, 1],  # f: sixth
        [7, 6, 5, 4, 3, 2, 1],  # no label
        [1, 2, 3, 4, 5, 6, 7],  # g: first
    ]
    data = joint_split(images, labels=[0, 4, 5, -1, 6], classes=names)
    model = FakeEncoder({"x": data, "y": data}, eye(names))
    found = ZeroShot(dict(x=toy("x"), y=toy("y"))).run(model)
    assert found == {"x/top1": 50, "x/top5": 75, "y/top1": 50, "y/top5": 75}
    assert model.classified == 1, "sets with the same classes share their classifier"


def test_zero_shot_averages_templates():
    texts = {"a": [1.0, 0], "no a": [-0.5, 1], "b": [0.0, 1], "no b": [1, -0.5]}
    model = FakeEncoder(
        {"x": joint_split([[1, 0.2]], labels=[0], classes=["a", "b"])},
        {key: torch.tensor(value) for key, value in texts.items()},
    )
    plain = ZeroShot(dict(x=toy("x"))).run(model)
    mixed = ZeroShot(dict(x=toy("x")), templates=["{}", "no {}"]).run(model)
    assert plain["x/top1"] == 100
    assert mixed["x/top1"] == 0, "means are (.25, .5) for a and (.5, .25) for b"
    assert mixed["x/top5"] == 100, "two classes: both are among the first five"


def test_zero_shot_without_joint_space_or_labels():
    model = FakeEncoder({"x": split([[1.0]], labels=[0], classes=["a"])}, {"a": torch.ones(1)})
    with pytest.raises(MissingPart, match="joint space"):
        ZeroShot(dict(x=toy("x"))).run(model)
    model = FakeEncoder({"x": joint_split([[1.0]])})
    with pytest.raises(ValueError, match=r"splits\['x'\]: no sample has a label"):
        ZeroShot(dict(x=toy("x"))).run(model)


# --- retrieval ------------------------------------------------------------------------------------


def test_retrieval_with_equal_captions():
    # Two images share 'cat'; the second of them lies nearest to 'dog', and 'dog' nearest to it.
    data = joint_split(
        [[1, 0, 0], [0.3, 1, 0], [0, 0.8, 0.7], [0, 0, 1]],
        captions=["cat", "cat", "dog", ""],
    )
    model = FakeEncoder({"x": data}, eye(["cat", "dog", "unused"]))
    found = Retrieval(dict(x=toy("x"))).run(model)
    assert found["x/i2t_r1"] == pytest.approx(200 / 3), "images 1 and 3 find their text"
    assert found["x/t2i_r1"] == 50, "'cat' finds image 1; 'dog' finds image 2, a cat"
    assert found["x/i2t_r5"] == found["x/t2i_r5"] == 100, "two texts, three images: all are found"


def test_recall_equals_a_naive_loop():
    torch.manual_seed(0)
    owner = torch.randint(0, 40, (60,))
    owner[:40] = torch.arange(40)
    texts = F.normalize(torch.randn(40, 4), dim=1)
    images = F.normalize(texts[owner] + 0.8 * torch.randn(60, 4), dim=1)
    found = recall(images, texts, owner[:, None], chunk=7)
    similarity = (images.double() @ texts.double().T).numpy()
    for k in (1, 5, 10):
        i2t = [owner[i].item() in np.argsort(-row)[:k] for i, row in enumerate(similarity)]
        t2i = [t in owner[np.argsort(-row)[:k]].tolist() for t, row in enumerate(similarity.T)]
        assert found[f"i2t_r{k}"] == pytest.approx(100 * np.mean(i2t))
        assert found[f"t2i_r{k}"] == pytest.approx(100 * np.mean(t2i))


def test_a_collapsed_model_does_not_retrieve():
    found = recall(torch.ones(200, 3), torch.ones(200, 3), torch.arange(200)[:, None])
    assert found["i2t_r1"] == found["t2i_r1"] == 0.5
    assert found["i2t_r10"] == found["t2i_r10"] == 5


def test_retrieval_without_captions():
    with pytest.raises(ValueError, match="no sample has a caption"):
        Retrieval(dict(x=toy("x"))).run(FakeEncoder({"x": joint_split([[1.0]])}))


# --- nearest neighbours ---------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 50])
@pytest.mark.parametrize("temperature", [0.07, 1e-4])
def test_knn_equals_a_naive_loop(k, temperature):
    torch.manual_seed(1)
    queries, bank = (F.normalize(torch.randn(n, 6), dim=1) for n in (9, 30))
    labels = torch.randint(0, 4, (30,))
    expected = []
    for query in queries.double():
        similarity = bank.double() @ query
        votes = torch.zeros(4, dtype=torch.float64)
        for row in similarity.argsort(descending=True)[:k]:
            # Shifted: DINO's exp(s / t) overflows float64 at the smaller temperature.
            votes[labels[row]] += ((similarity[row] - similarity.max()) / temperature).exp()
        expected.append(votes.argmax().item())
    assert knn_classify(queries, bank, labels, [k], temperature, chunk=4).tolist() == [expected]


def test_near_neighbours_outvote_many_far_ones():
    bank = F.normalize(torch.tensor([[1, 0.1], [1, 1], [1, 1.1], [1, 1.2]]), dim=1)
    labels = torch.tensor([0, 1, 1, 1])
    query = torch.tensor([[1.0, 0.0]])
    assert knn_classify(query, bank, labels, [4], temperature=0.07).item() == 0
    assert knn_classify(query, bank, labels, [4], temperature=10).item() == 1


def test_knn_compares_class_names_and_leaves_unlabelled_rows_out():
    train = split(
        [[5.0, 0], [0, 2], [1, 1]], labels=[0, 1, -1], classes=["cat", "dog"]
    )  # lengths differ: features are normalised
    test = split(
        [[1.0, 0.1], [0.1, 1], [1, 0], [1, 1]],
        labels=[2, 1, 0, -1],  # right, right, a class that training lacks
        classes=["owl", "dog", "cat"],
    )
    model = FakeEncoder({"train": train, "test": test})
    found = KNN(toy("train"), dict(t=toy("test")), k=1).run(model)
    assert found == {"t/top1": pytest.approx(200 / 3)}
    # Fewer neighbours than k, fewer than a hundred test samples (DINO's own script fails on these).
    assert KNN(toy("train"), dict(t=toy("test")), k=20).run(model) == found


def test_class_ids_are_numbers_of_names():
    names = {}
    assert class_ids(torch.tensor([1, -1, 0]), ["a", "b"], names).tolist() == [1, -1, 0]
    assert class_ids(torch.tensor([0, 1, -1]), ["b", "c"], names).tolist() == [1, 2, -1]
    assert names == {"a": 0, "b": 1, "c": 2}


def test_nearest_in_chunks():
    torch.manual_seed(2)
    queries, bank = torch.randn(10, 3), torch.randn(7, 3)
    values, rows = nearest(queries, bank, 3, chunk=4)
    torch.testing.assert_close(rows, (queries @ bank.T).topk(3).indices)
    torch.testing.assert_close(values, (queries @ bank.T).topk(3).values)
    assert nearest(queries, bank, 9)[1].shape == (10, 7)


# --- pixels ---------------------------------------------------------------------------------------


def test_pixels_compare_pictures_on_white_by_class_name():
    train = toy("", colours=[RED, BLUE], labels=[0, 1], classes=["red", "blue"])
    test = toy(
        "",
        colours=[(220, 20, 0), (0, 40, 200), (255, 0, 0), (0, 0, 0)],
        labels=[2, 1, 0, -1],  # right, right, a class that training lacks
        classes=["green", "blue", "red"],
    )
    found = PixelNeighbour(train, dict(t=test), size=4).run(None)
    assert found == {"t/top1": pytest.approx(200 / 3), "t/top5": pytest.approx(200 / 3)}
    assert PixelNeighbour(train, dict(t=test), k=10).run(None) == {"t/top1": found["t/top1"]}


def test_pixel_vector_composes_on_white():
    image = np.zeros((4, 4, 4), np.uint8)
    image[:, :2] = (*RED, 255)
    expected = np.array([[RED, (255, 255, 255)]] * 2, np.float32)
    np.testing.assert_allclose(pixel_vector(image, 2), (expected - expected.mean()).ravel())
    assert not pixel_vector(np.zeros((4, 4, 4), np.uint8), 2).any()


def test_pixels_on_the_embedded_corpus(tmp_path):
    """Raw pixels solve a third of "new designer, seen concept" and none of "unseen concept"."""

    def emoji(split, **kwargs):
        return dict(type="Emoji", split=split, size=16, cache_dir=str(tmp_path), **kwargs)

    concept = PixelNeighbour(
        emoji("train-drawings"), {name: emoji(name) for name in ("noto-v1", "unseen/noto-v1")}
    ).run(None)
    assert concept["noto-v1/top1"] == pytest.approx(37, abs=2)
    assert concept["noto-v1/top5"] == pytest.approx(48.5, abs=2)
    assert concept["unseen/noto-v1/top1"] == 0
    group = PixelNeighbour(
        emoji("train-drawings", target="group"),
        {"noto-v1": emoji("noto-v1", target="group")},
        k=10,
    ).run(None)
    assert group == {"noto-v1/top1": pytest.approx(60.5, abs=2)}


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "evaluator",
    [
        ZeroShot,
        Retrieval,
        lambda splits: KNN(toy("t"), splits),
        lambda splits: PixelNeighbour(toy("t"), splits),
    ],
)
def test_splits_are_checked_when_the_evaluator_is_built(evaluator):
    with pytest.raises(ValueError, match=r"splits\['x'\]\.colour: .*did you mean 'colours'"):
        evaluator(dict(x=toy("x", colour=[])))
    assert evaluator(dict(x=None, y=toy("y"))).splits == dict(y=toy("y"))


@pytest.mark.parametrize("argument", ["k", "temperature", "chunk"])
def test_numbers_are_checked(argument):
    with pytest.raises(ValueError, match=f"{argument}=0: give a number above 0"):
        KNN(toy("t"), {}, **{argument: 0})
    with pytest.raises(ValueError, match=r"train\.type"):
        KNN(dict(type="Tyo"), {})


# --- runner and table -----------------------------------------------------------------------------


def test_evaluation_prefixes_skips_and_caches(monkeypatch, caplog):
    runs = []

    def evaluator(kind, result, **attributes):
        def run(self, model):
            runs.append(kind)
            if isinstance(result, Exception):
                raise result
            return result

        cls = type(kind, (), dict(run=run, **attributes))
        monkeypatch.setitem(EVALUATORS._module_dict, kind, cls)
        return dict(type=kind)

    evaluation = Evaluation(
        dict(
            plain=evaluator("Plain", {"a/top1": 1}),
            lacking=evaluator("Lacking", MissingPart("this model has no tower 'text'")),
            plain_pixels=evaluator("Constant", {"a/top1": torch.tensor(36.0)}, constant=True),
            removed=None,
        )
    )
    model = FakeEncoder()
    with caplog.at_level(logging.WARNING, "webssl_toolbox"):
        first, second = evaluation.run(model), evaluation.run(model)
    assert first == second == ({"plain/a/top1": 1, "plain_pixels/a/top1": 36}, {})
    assert all(type(value) is float for value in first[0].values())
    assert [r.message for r in caplog.records] == [
        "evaluator lacking is skipped: this model has no tower 'text'"
    ]
    assert runs.count("Plain") == 2 and runs.count("Constant") == 1
    assert model.forgotten == 2


def test_evaluation_lets_other_errors_through(monkeypatch):
    def run(model):
        raise ValueError("a broken evaluator")

    monkeypatch.setitem(EVALUATORS._module_dict, "Bad", lambda: SimpleNamespace(run=run))
    with pytest.raises(ValueError, match="a broken evaluator"):
        Evaluation(dict(x=dict(type="Bad"))).run(FakeEncoder())
    with pytest.raises(ValueError, match=r"evaluation\.evaluators\.x\.type: "):
        Evaluation(dict(x=dict(type="NoSuchEvaluator")))


NOW = {
    "zero_shot/noto-v1/top1": 22.44,
    "zero_shot/unseen/noto-v1/top1": 16.5,
    "knn/noto-v1/top1": 62.0,
    "zero_shot_pixels/noto-v1/top1": 36.26,
    "knn_pixels/other/top1": 50.0,
}
BEFORE = {"zero_shot/noto-v1/top1": 0.05, "knn/noto-v1/top1": 30.0}


def test_table_in_markdown():
    expected = """\
| split          | evaluator | metric (%) | pixels | untrained | trained |
| -------------- | --------- | ---------- | -----: | --------: | ------: |
| noto-v1        | zero_shot | top1       |   36.3 |       0.1 |    22.4 |
|                | knn       | top1       |        |      30.0 |    62.0 |
| unseen/noto-v1 | zero_shot | top1       |        |           |    16.5 |
"""
    assert to_markdown(NOW, BEFORE) == expected


def test_table_leaves_empty_columns_out():
    head, _, row = to_markdown({"knn/a/top1": 3.0}, {}).splitlines()
    assert " ".join(head.split()) == "| split | evaluator | metric (%) | result |"
    assert " ".join(row.split()) == "| a | knn | top1 | 3.0 |"
    assert len(to_markdown({}, {}).splitlines()) == 2


def test_table_on_a_terminal():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(to_rich(NOW, BEFORE))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if "36.3" in line]
    assert row.replace("│", " ").split() == ["noto-v1", "zero_shot", "top1", "36.3", "0.1", "22.4"]
    assert sum(line.startswith("├") for line in lines) == 1, "a rule between the two splits"
