"""Every metric against scikit-learn or scipy, on fixed inputs."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import sklearn.linear_model
import sklearn.metrics
import sklearn.neighbors
import sklearn.preprocessing
import torch
import torch.nn.functional as F

from tests.test_evaluators import FakeEncoder, Toy, joint_split, toy
from webssl_plugins.evaluators._readout import fit, mean_iou
from webssl_plugins.evaluators.rank_me import effective_rank
from webssl_plugins.evaluators.retrieval import recall
from webssl_plugins.evaluators.zero_shot import ZeroShot
from webssl_toolbox.registry import DATASETS


@pytest.fixture
def draws():
    return np.random.default_rng(0)


def test_zero_shot_accuracy(draws, monkeypatch):
    monkeypatch.setitem(DATASETS._module_dict, "Toy", Toy)
    names = [f"class {i}" for i in range(12)]
    texts = F.normalize(torch.from_numpy(draws.normal(size=(12, 8))).float(), dim=1)
    labels = draws.integers(0, 12, 100)
    vectors = texts[labels] + torch.from_numpy(draws.normal(size=(100, 8))).float()
    data = joint_split(vectors, labels=labels.tolist(), classes=names)
    found = ZeroShot(dict(x=toy("x"))).run(
        FakeEncoder({"x": data}, dict(zip(names, texts, strict=True)))
    )
    scores = (data.embeddings.double() @ texts.double().T).numpy()
    for k in (1, 5):
        expected = sklearn.metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(12))
        assert found[f"x/top{k}"] == pytest.approx(100 * expected)


def test_recall(draws):
    owner = np.concatenate([np.arange(30), draws.integers(0, 30, 50)])
    texts = F.normalize(torch.from_numpy(draws.normal(size=(30, 6))).float(), dim=1)
    images = texts[owner] + 0.7 * torch.from_numpy(draws.normal(size=(80, 6))).float()
    images = F.normalize(images, dim=1)
    found = recall(images, texts, torch.from_numpy(owner)[:, None])
    search = sklearn.neighbors.NearestNeighbors(metric="cosine")
    near_texts = search.fit(texts).kneighbors(images, 10, return_distance=False)
    near_images = search.fit(images).kneighbors(texts, 10, return_distance=False)
    for k in (1, 5, 10):
        i2t = (near_texts[:, :k] == owner[:, None]).any(1)
        t2i = (owner[near_images[:, :k]] == np.arange(30)[:, None]).any(1)
        assert found[f"i2t_r{k}"] == pytest.approx(100 * i2t.mean())
        assert found[f"t2i_r{k}"] == pytest.approx(100 * t2i.mean())
    assert found["t2i_r1"] < 100, "nothing is compared otherwise"


def test_mean_intersection_over_union(draws):
    labels, guessed = draws.integers(0, 6, (2, 9, 16))
    labels[labels == 4] = 0  # a class that is guessed, but does not occur
    expected = sklearn.metrics.jaccard_score(
        labels.ravel(), guessed.ravel(), labels=[1, 2, 3, 5], average="macro"
    )
    found = mean_iou(torch.from_numpy(guessed), torch.from_numpy(labels))
    assert found == pytest.approx(100 * expected)


def test_effective_rank(draws):
    features = draws.normal(size=(50, 12)) * np.linspace(0.01, 3, 12)
    expected = np.exp(scipy.stats.entropy(scipy.linalg.svdvals(features)))
    assert effective_rank(torch.from_numpy(features)) == pytest.approx(expected)


def test_the_read_out_of_patches(draws):
    """Ridge regression of one-hot classes, each class of equal weight."""
    tokens = draws.normal(size=(6, 10, 5)) * [1, 10, 0.1, 3, 1] + 2
    labels = draws.choice(4, (6, 10), p=[0.5, 0.3, 0.15, 0.05])
    x, y = tokens.reshape(-1, 5), labels.ravel()
    weight = 1 / (4 * np.bincount(y)[y])
    scaled = sklearn.preprocessing.StandardScaler().fit(x, sample_weight=weight)
    ridge = sklearn.linear_model.Ridge(alpha=0.01)
    ridge.fit(scaled.transform(x), np.eye(4)[y], sample_weight=weight)
    found = fit(torch.from_numpy(tokens).split(2), torch.from_numpy(labels).split(2), 0.01)
    guess = torch.from_numpy(x) @ found.weight + found.bias
    np.testing.assert_allclose(guess, ridge.predict(scaled.transform(x)), atol=1e-8)
