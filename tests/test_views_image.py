"""Cropping, flipping and composing in the workers."""

import cv2
import numpy as np
import pytest
from PIL import Image

from webssl_plugins.views.image import (
    Background,
    RandomFlip,
    RandomResizedCrop,
    ResizeCenterCrop,
    compose,
    resize,
)
from webssl_toolbox.data.sample import Sample


def rng(seed=0):
    return np.random.default_rng(seed)


def natural(height, width, seed=0):
    """Smooth noise over several octaves, in 8 bits."""
    draws = rng(seed)
    pixels = sum(
        cv2.resize(draws.normal(size=(n, n, 3)), (width, height), interpolation=cv2.INTER_CUBIC) / n
        for n in (3, 6, 12, 24, 48)
    )
    return (128 + 50 * pixels / pixels.std()).clip(0, 255).astype(np.uint8)


def run(transform, image, seed=0):
    return transform(image, Sample(image), rng(seed))


def test_compose_is_exact_for_every_alpha():
    alpha, value = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    image = np.stack([value, 255 - value, value, alpha], axis=2).astype(np.uint8)
    mixed = compose(image, (255, 10, 77))
    share = image[..., 3:] / 255
    exact = image[..., :3] * share + (1 - share) * np.array([255, 10, 77])
    assert np.array_equal(mixed, np.floor(exact + 0.5).astype(np.uint8))


def test_background_draws_near_white_or_any_colour():
    clear = np.zeros((4, 4, 4), dtype=np.uint8)
    colors = np.stack([run(Background(white=0.7, jitter=16), clear, i)[0, 0] for i in range(400)])
    near_white = (colors >= 239).all(axis=1)
    assert 0.6 < near_white.mean() < 0.8
    assert colors.min() < 30
    assert (run(Background(white=1, jitter=0), clear) == 255).all()


def test_background_passes_rgb_and_consumes_the_same_draws():
    image = natural(20, 20)
    opaque = np.dstack([image, np.full((20, 20), 255, dtype=np.uint8)])
    first, second = rng(3), rng(3)
    assert Background()(image, Sample(image), first) is image
    assert np.array_equal(Background()(opaque, Sample(opaque), second), image)
    assert first.random() == second.random()


@pytest.mark.parametrize("shape", [(40, 40, 3), (500, 31, 4), (9, 700, 3), (1, 1, 4)])
@pytest.mark.parametrize("transform", [RandomResizedCrop(32), ResizeCenterCrop(32, 36)])
def test_crops_of_any_image_have_the_asked_size(transform, shape):
    image = rng(1).integers(0, 256, shape, dtype=np.uint8)
    view = run(transform, image)
    assert view.shape == (32, 32, 3)
    assert view.dtype == np.uint8


@pytest.mark.parametrize("transform", [RandomResizedCrop(8), ResizeCenterCrop(8)])
def test_a_crop_composes_alpha_over_white(transform):
    assert (run(transform, np.zeros((16, 16, 4), dtype=np.uint8)) == 255).all()


def test_boxes_follow_the_distribution_of_torchvision():
    crop, draws = RandomResizedCrop(8, scale=(0.2, 0.6)), rng()
    top, left, height, width = np.array([crop.box(480, 640, draws) for _ in range(4000)]).T
    share, ratio = height * width / (480 * 640), width / height
    assert share.min() > 0.199
    assert share.max() < 0.601
    assert abs(share.mean() - 0.4) < 0.01
    assert ratio.min() > 0.74
    assert ratio.max() < 1.34
    assert abs(np.log(ratio).mean()) < 0.02
    assert (top + height).max() <= 480
    assert (left + width).max() <= 640
    assert abs((left / (640 - width)).mean() - 0.5) < 0.02


def test_a_box_that_never_fits_becomes_the_largest_central_one():
    top, left, height, width = RandomResizedCrop(8, scale=(1, 1)).box(100, 1000, rng())
    assert (top, left, height, width) == (0, 433, 100, 133)


def test_evaluation_crop_matches_pillow():
    image = natural(300, 400)
    picture = Image.fromarray(image).resize((341, 256), Image.BILINEAR)
    reference = np.asarray(picture.crop((58, 16, 282, 240))).astype(float)
    assert np.abs(run(ResizeCenterCrop(224, 256), image) - reference).mean() < 0.5


@pytest.mark.parametrize("factor", [1.3, 2.2, 4.7])
def test_resize_is_close_to_pillows_antialiased_resize(factor):
    side = int(64 * factor)
    image = natural(side, side, seed=2)
    reference = np.asarray(Image.fromarray(image).resize((64, 64), Image.BILINEAR)).astype(float)
    assert np.abs(resize(image, 64, 64, cv2.INTER_LINEAR) - reference).mean() < 0.8


def test_resize_reads_every_pixel_of_a_large_image():
    image = np.zeros((256, 256, 3), dtype=np.uint8)
    image[::4, ::4] = 240  # interpolation alone, reading two pixels in four, sees none of these
    assert (run(ResizeCenterCrop(64), image) == 15).all()


def test_flip_mirrors_half_of_the_images_and_stays_contiguous():
    image = natural(8, 8)
    views = [run(RandomFlip(), image, i) for i in range(200)]
    mirrored = [np.array_equal(view, image[:, ::-1]) for view in views]
    assert 70 < sum(mirrored) < 130
    assert all(view.flags.c_contiguous for view in views)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: RandomResizedCrop(0), "size"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 1.5)), "scale"),
        (lambda: RandomResizedCrop(8, ratio=(2, 1)), "ratio"),
        (lambda: RandomResizedCrop(8, interpolation="bicubic"), "interpolation"),
        (lambda: ResizeCenterCrop(224, 128), "resize"),
        (lambda: RandomFlip(1.5), "prob"),
        (lambda: Background(white=2), "white"),
        (lambda: Background(jitter=300), "jitter"),
    ],
)
def test_errors_name_the_argument(build, name):
    with pytest.raises(ValueError, match=name):
        build()
