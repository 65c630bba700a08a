"""Raw pixels as a tower: what the yardstick of the kNN sees, and the cells of the dense probe."""

import numpy as np
import pytest
import torch

from webssl_plugins.evaluators.pixels import pixel_vector
from webssl_toolbox.loading import build
from webssl_toolbox.objective import Need
from webssl_toolbox.registry import MODELS
from webssl_toolbox.towers import encode_batch


def tower(**arguments):
    return MODELS.create(dict(type="Pixels") | arguments, "tower")


def test_it_has_no_weights_and_one_layer():
    pixels = tower(size=4)
    assert not list(pixels.parameters()) and (pixels.width, pixels.token_width) == (48, 192)
    images = torch.rand(2, 3, 16, 24)
    first, last = pixels.layers(images, [0, -4])
    assert first is last and first.map.shape == (2, 192, 2, 3)
    encoding = encode_batch(pixels, images)
    assert torch.equal(encoding.pooled, first.pooled)
    assert torch.equal(encoding.tokens, first.map.flatten(2).transpose(1, 2))
    cell = images[1, :, 8:16, 16:24]
    assert torch.equal(first.map[1, :, 1, 2], cell.flatten())


def test_it_sees_the_pictures_that_pixel_neighbour_compares():
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 4), np.uint8)
    view = [dict(type="Background", white=1.0, jitter=0), dict(type="ResizeCenterCrop")]
    model = build(dict(model=dict(towers=dict(image=dict(type="Pixels"))), test_view=view))
    found = model.encode_features(list(images)).unflatten(1, (3, 16, 16)).permute(0, 2, 3, 1)
    expected = [pixel_vector(image, 16).reshape(16, 16, 3) / 255 for image in images]
    np.testing.assert_allclose(found, expected, atol=0.003)  # one of them rounds to 8 bits


@pytest.mark.parametrize("arguments", [dict(size=0), dict(patch_size=7), dict(input_size=50)])
def test_wrong_sizes(arguments):
    with pytest.raises(ValueError, match=r"must be at least 1|do not divide into patches"):
        tower(**arguments)


def test_it_cannot_mask():
    with pytest.raises(ValueError, match="Pixels cannot keep or mask patches"):
        tower().plan(frozenset({Need("image", "v", mask="m")}))
