"""A trained model as its users see it."""

import cv2
import numpy as np
import pytest
import torch

import webssl_toolbox
from webssl_toolbox.encoder import MissingPart
from webssl_toolbox.engine import checkpoint
from webssl_toolbox.engine.runner import Runner
from webssl_toolbox.loading import build

from . import cases
from .test_runner import config

VIEW = [dict(type="ResizeCenterCrop"), dict(type="Normalize")]


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    backends = dict(tensorboard=dict(type="TensorboardVisBackend"))
    Runner(config(test_view=VIEW, vis_backends=backends), folder).train()
    return folder


def images(count=5):
    return list(np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8))


def test_load_encodes_images_and_texts(work_dir):
    model = webssl_toolbox.load(work_dir)
    embedded = model.encode_image(images())
    assert embedded.shape == (5, 8) and torch.allclose(embedded.norm(dim=1), torch.ones(5))
    assert model.encode_text(["a red cat", "tree"]).shape == (2, 8)
    assert model.encode_text("tree").shape == (1, 8)
    probabilities = model.zero_shot(images(), ["cat", "dog", "tree"], ["a {}", "one small {}"])
    assert probabilities.shape == (5, 3)
    assert torch.allclose(probabilities.sum(1), torch.ones(5))


def test_a_result_does_not_depend_on_its_neighbours(work_dir):
    model = webssl_toolbox.load(work_dir)
    together = model.encode_image(images())
    texts = ["a red cat", "a very long caption about a small round tree", "dog"]
    words = model.encode_text(texts)
    model.batch_size = 2
    assert torch.allclose(model.encode_image(images()), together, atol=1e-6)
    alone = torch.cat([model.encode_text(text) for text in texts])
    assert torch.allclose(alone, words, atol=1e-6)


def test_images_may_be_files(work_dir, tmp_path):
    path = tmp_path / "one.png"
    (image,) = images(1)
    cv2.imwrite(str(path), image[:, :, ::-1])
    model = webssl_toolbox.load(work_dir / "checkpoints" / "step_00000006")
    assert torch.equal(model.encode_image(path), model.encode_image(image))


def test_what_the_model_lacks_is_named(work_dir):
    model = webssl_toolbox.load(work_dir)
    model.text = "words"
    with pytest.raises(MissingPart, match=r"no tower 'words'; it has image, text"):
        model.encode_text("cat")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a checkpoint"):
        webssl_toolbox.load(tmp_path)


def test_tensorboard_is_written_when_asked(work_dir):
    assert list((work_dir / "tensorboard").rglob("events.out.tfevents*"))


# -- models of configs ---------------------------------------------------------------------------


def test_a_config_is_a_model_with_the_weights_that_training_begins_with(tmp_path):
    cfg = config(test_view=VIEW, seed=3)
    built, begun = build(cfg).model, Runner(cfg, tmp_path).model
    assert checkpoint.digest(built) == checkpoint.digest(begun)
    assert checkpoint.digest(build(cfg | dict(seed=4)).model) != checkpoint.digest(begun)


def test_a_config_of_a_tower_and_a_view_is_a_model():
    model = build(dict(model=dict(towers=dict(image=cases.VIT)), test_view=VIEW))
    assert model.encode_features(images()).shape == (5, 16)
    with pytest.raises(MissingPart, match="this model has no space 'joint'; it has none"):
        model.encode_image(images())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(test_view=[]), "needs test_view"),
        (dict(model={}), "needs model"),
        (dict(test_towr="image"), "unknown config key test_towr; did you mean 'test_tower'"),
        (dict(model=dict(towers=dict(image=dict(type="VT")))), "did you mean 'ViT'"),
    ],
)
def test_a_config_that_is_no_model_is_refused(change, said):
    cfg = dict(model=dict(towers=dict(image=cases.VIT)), test_view=VIEW)
    with pytest.raises(ValueError, match=said):
        build(cfg | change)
