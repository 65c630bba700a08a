"""A trained model as its users see it."""

import cv2
import numpy as np
import pytest
import torch

import webssl_toolbox
from webssl_toolbox.encoder import MissingPart
from webssl_toolbox.engine.runner import Runner

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
