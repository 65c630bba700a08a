"""Probes that are fitted in one go, against scikit-learn: neighbours and logistic regression."""

import logging

import numpy as np
import pytest
import sklearn.linear_model
import sklearn.neighbors
import sklearn.pipeline
import sklearn.preprocessing
import torch
import torch.nn.functional as F

from tests.test_evaluators import FakeEncoder, Toy, split, toy
from webssl_plugins.evaluators import logistic_regression
from webssl_plugins.evaluators._common import knn_classify
from webssl_plugins.evaluators._labelled import hold_out
from webssl_plugins.evaluators._logistic import Standardise, fit_logistic
from webssl_plugins.evaluators.knn import KNN, draw
from webssl_plugins.evaluators.logistic_regression import LogisticRegression
from webssl_toolbox.registry import DATASETS

CLASSES = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(DATASETS._module_dict, "Toy", Toy)


def blobs(count, seed, spread=1.5, width=6):
    """Points around four centres, of channels with other scales and means; a few without label."""
    centres = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=draws)
    points = centres[labels] + spread * torch.randn(count, width, generator=draws)
    labels[::20] = -1
    return points * 10.0 ** torch.arange(width).sub(2) + 5, labels.tolist()


def two_sets():
    return FakeEncoder({name: split(*blobs(*how), classes=CLASSES) for name, how in SETS.items()})


SETS = {"train": (300, 1), "test": (200, 2), "validation": (100, 3)}


def rows(name):
    points, labels = blobs(*SETS[name])
    kept = np.array(labels) >= 0
    return points.numpy()[kept], np.array(labels)[kept]


# --- logistic regression --------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1e-4, 1e-2, 1, 30])
def test_logistic_regression_equals_scikit_learn(c):
    x, y = rows("train")
    standardise = Standardise(torch.from_numpy(x))
    scaled = standardise(torch.from_numpy(x))
    fit = fit_logistic(scaled, torch.from_numpy(y), 4, c)
    assert fit.gradient < 1e-7
    other = sklearn.linear_model.LogisticRegression(C=c, tol=1e-9, max_iter=10_000)
    other.fit(scaled.numpy(), y)
    np.testing.assert_allclose(fit.readout.weight, other.coef_.T, atol=1e-4)
    np.testing.assert_allclose(fit.readout.bias, other.intercept_, atol=1e-4)
    test = standardise(torch.from_numpy(rows("test")[0]))
    probabilities = (test @ fit.readout.weight + fit.readout.bias).softmax(1)
    np.testing.assert_allclose(probabilities, other.predict_proba(test.numpy()), atol=1e-5)
    assert fit.readout(test).tolist() == other.predict(test.numpy()).tolist()


def test_chunks_and_the_start_change_nothing(monkeypatch):
    x, y = torch.randn(50, 3).double(), torch.arange(50) % 4
    one = fit_logistic(x, y, 4, 1.0)
    monkeypatch.setattr("webssl_plugins.evaluators._logistic.CHUNK", 7)
    other = fit_logistic(x, y, 4, 1.0, start=fit_logistic(x, y, 4, 1e-3).readout)
    torch.testing.assert_close(one.readout, other.readout, atol=1e-5, rtol=0)


def test_columns_are_standardised_and_turned():
    x, _ = rows("train")
    scaled = sklearn.preprocessing.StandardScaler().fit_transform(x.astype(np.float64))
    turned = Standardise(torch.from_numpy(x))(torch.from_numpy(x))
    np.testing.assert_allclose(turned @ turned.T, scaled @ scaled.T, atol=1e-8)
    moments = (turned.T @ turned).numpy()
    np.testing.assert_allclose(moments, np.diag(np.diag(moments)), atol=1e-8)


def test_a_constant_channel_is_left_out():
    x = torch.tensor([[1e6 + 0.1, 1.0], [1e6 + 0.1, 3.0]])
    found = Standardise(x)(torch.tensor([[7.0, 1.0]]))
    np.testing.assert_allclose(found.abs().sort().values, [[0, 1]], atol=1e-12)


@pytest.mark.parametrize("share", [True, False])
def test_the_penalty_is_chosen_on_what_is_neither_fitted_nor_tested(share, caplog):
    """Against the same choice made with scikit-learn."""
    cs = [1e-4, 1e-2, 1]
    x, y = rows("train")
    fitted, held = hold_out(len(y), 0.2) if share else (torch.arange(len(y)), None)
    val_x, val_y = (x[held], y[held]) if share else rows("validation")
    scores = [other(x[fitted], y[fitted], c).score(val_x, val_y) for c in cs]
    best = int(np.argmax(scores))
    validation = 0.2 if share else toy("validation")
    with caplog.at_level(logging.INFO, "webssl_toolbox"):
        found = LogisticRegression(
            toy("train"), dict(t=toy("test")), validation=validation, cs=cs[::-1]
        ).run(two_sets())
    assert f"C={cs[best]:g}" in caplog.text
    assert found == {
        "validation/top1": pytest.approx(100 * scores[best]),
        "t/top1": pytest.approx(100 * other(x, y, cs[best]).score(*rows("test"))),
    }


def other(x, y, c):
    model = sklearn.linear_model.LogisticRegression(C=c, tol=1e-9, max_iter=10_000)
    scale = sklearn.preprocessing.StandardScaler()
    return sklearn.pipeline.make_pipeline(scale, model).fit(x, y)


def test_no_class_without_a_sample_and_no_class_that_training_lacks():
    train = split([[0.0], [0.1], [1.0], [1.1]], labels=[0, 0, 2, 2], classes=["x", "never", "y"])
    test = split([[0.0], [1.0], [1.0]], labels=[1, 0, 2], classes=["y", "x", "new"])
    model = FakeEncoder({"train": train, "validation": train, "test": test})
    probe = LogisticRegression(toy("train"), dict(t=toy("test")), toy("validation"), cs=[1.0])
    assert probe.run(model) == {"validation/top1": 100, "t/top1": pytest.approx(200 / 3)}


def test_what_does_not_converge_is_said(caplog, monkeypatch):
    monkeypatch.setattr(logistic_regression, "CONVERGED", 1e-12)
    LogisticRegression(toy("train"), {}, cs=[1.0]).run(two_sets())
    assert "did not converge at C=1 (gradient" in caplog.text


def test_hold_out():
    first, second = hold_out(100, 0.1)
    assert len(second) == 10 and sorted([*first.tolist(), *second.tolist()]) == list(range(100))
    assert second.tolist() == hold_out(100, 0.1)[1].tolist() != list(range(90, 100))
    with pytest.raises(ValueError, match=r"validation=0.1 of 3 samples leaves one part empty"):
        hold_out(3, 0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(cs=[]), "cs is empty"),
        (dict(cs=[1, 0]), "cs=0: give a number above 0"),
        (dict(validation=1.0), "validation=1.0: give a dataset config, or a share"),
        (dict(validation=dict(type="Tyo")), "validation.type"),
    ],
)
def test_wrong_arguments_of_logistic_regression(arguments, message):
    with pytest.raises(ValueError, match=message):
        LogisticRegression(toy("train"), {}, **arguments)


# --- nearest neighbours ---------------------------------------------------------------------------


def sklearn_knn(k, x, y, queries):
    """scikit-learn's classifier over cosines, with DINO's weights."""
    return (
        sklearn.neighbors.KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
        )
        .fit(x, y)
        .predict(queries)
    )


@pytest.mark.parametrize("ks", [[10], [1, 200, 20]])
def test_neighbours_equal_scikit_learn(ks):
    (x, y), (queries, _) = rows("train"), rows("test")
    unit = [F.normalize(torch.from_numpy(each), dim=1) for each in (queries, x)]
    found = knn_classify(*unit, torch.from_numpy(y), ks, chunk=64)
    for each, k in zip(found, ks, strict=True):
        assert each.tolist() == sklearn_knn(k, x, y, queries).tolist()


def test_several_k_and_few_shots():
    (x, y), (queries, truth) = rows("train"), rows("test")
    probe = KNN(toy("train"), dict(t=toy("test")), k=10, ks=[10, 20], shots=[5, 1000], tries=3)
    found = probe.run(two_sets())
    for k, name in ((10, "t/top1"), (20, "t/top1_k20")):
        assert found[name] == pytest.approx(100 * np.mean(sklearn_knn(k, x, y, queries) == truth))
    tries = [draw(torch.from_numpy(y), 5, seed) for seed in range(3)]
    scores = [np.mean(sklearn_knn(10, x[each], y[each], queries) == truth) for each in tries]
    assert found["t/top1_5shot"] == pytest.approx(100 * np.mean(scores))
    assert len(set(scores)) > 1, "the draws differ"
    assert found["t/top1_1000shot_k20"] == pytest.approx(found["t/top1_k20"])
    assert len(found) == 6


def test_shots_are_drawn_from_each_class():
    labels = torch.tensor([3] * 10 + [0] * 2 + [1] * 5)
    drawn = draw(labels, 4, seed=0)
    assert labels[drawn].bincount().tolist() == [2, 4, 0, 4]
    assert len(drawn.unique()) == 10
    assert drawn.tolist() == draw(labels, 4, seed=0).tolist() != draw(labels, 4, seed=1).tolist()


@pytest.mark.parametrize("argument", ["ks", "shots"])
def test_wrong_arguments_of_neighbours(argument):
    with pytest.raises(ValueError, match=f"{argument}=0: give a number above 0"):
        KNN(toy("train"), {}, **{argument: [0]})
