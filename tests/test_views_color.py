"""Colour, blur and normalisation on the device, against Pillow and exact arithmetic.

``test_each_operation_equals_pillow`` publishes, and bounds, the distance of each operation to
Pillow's in levels of 8 bits (``pytest -s`` prints the table).
"""

import colorsys
import sys
from itertools import permutations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch.nn import functional as F

from webssl_plugins.views import blur, color
from webssl_plugins.views._common import where_drawn
from webssl_plugins.views.blur import GaussianBlur
from webssl_plugins.views.color import ColorJitter, Grayscale, Normalize, Solarize

FACTORS = (0.6, 0.8, 1.0, 1.2, 1.4)
SHIFTS = (-0.1, -0.05, 0.0, 0.03, 0.1)
SIGMAS = (0.1, 0.5, 1.0, 1.5, 2.0)


def natural(seed, size=64):
    """Smooth coloured noise over several octaves, uint8 ``[H, W, 3]``."""
    rng = np.random.default_rng(seed)
    pixels = sum(
        cv2.resize(rng.normal(size=(n, n, 3)), (size, size), interpolation=cv2.INTER_CUBIC) / n
        for n in (3, 6, 12, 24, 48)
    )
    return (128 + 45 * pixels / pixels.std()).clip(0, 255).astype(np.uint8)


def to_tensor(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 255


def jitter(images, order, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0):
    """One jitter with given factors, through the same functions as ``ColorJitter``."""
    coefficients = color.compose_jitter(order, brightness, contrast, saturation)
    rows = len(images)
    return color.jitter(
        images,
        torch.full((rows,), hue, dtype=images.dtype),
        torch.tensor([coefficients], dtype=images.dtype).expand(rows, -1),
    )


def pillow_hue(picture, shift):
    """``torchvision.transforms.functional.adjust_hue`` on a Pillow image."""
    hue, saturation, value = picture.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(shift * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def exact_blur(pixels, sigma):
    """The Gaussian to 6 sigma in float64, reflecting, of uint8 ``[H, W, 3]``."""
    side = max(1, int(np.ceil(6 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-side, side + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(pixels.astype(np.float64), ((side, side), (side, side), (0, 0)), mode="reflect")
    return cv2.sepFilter2D(padded, -1, kernel, kernel)[side:-side, side:-side]


def report(name, errors):
    """Writes a row of the table."""
    row = f"\n| {name} | {np.max(errors):.2f} | {np.mean(errors):.3f} |"
    sys.stdout.write(row)


# name: (ours, reference, values of the parameter, largest and mean error in levels of 8 bits)
OPERATIONS = {
    "brightness": (
        lambda x, f: jitter(x, (0, 1, 2, 3), brightness=f),
        lambda p, f: ImageEnhance.Brightness(Image.fromarray(p)).enhance(f),
        (FACTORS, 1.0, 0.4),
    ),
    "contrast": (
        lambda x, f: jitter(x, (0, 1, 2, 3), contrast=f),
        lambda p, f: ImageEnhance.Contrast(Image.fromarray(p)).enhance(f),
        (FACTORS, 1.5, 0.4),
    ),
    "saturation": (
        lambda x, f: jitter(x, (0, 1, 2, 3), saturation=f),
        lambda p, f: ImageEnhance.Color(Image.fromarray(p)).enhance(f),
        (FACTORS, 1.5, 0.4),
    ),
    "hue": (
        lambda x, s: jitter(x, (0, 1, 2, 3), hue=int(s * 255) / 255),
        lambda p, s: pillow_hue(Image.fromarray(p), s),
        (SHIFTS, 10.0, 0.5),
    ),
    "grayscale": (
        lambda x, _: Grayscale().apply(x, torch.ones(1, 1)),
        lambda p, _: Image.merge("RGB", [Image.fromarray(p).convert("L")] * 3),
        ((None,), 0.51, 0.3),
    ),
    "solarize": (
        lambda x, t: Solarize(t / 255).apply(x, torch.ones(1, 1)),
        lambda p, t: ImageOps.solarize(Image.fromarray(p), t),
        ((128, 200), 1e-3, 1e-3),
    ),
    "blur (exact)": (
        lambda x, s: GaussianBlur().apply(x, torch.tensor([[1.0, s]])),
        exact_blur,
        (SIGMAS, 0.01, 0.001),
    ),
    "blur (Pillow)": (
        lambda x, s: GaussianBlur().apply(x, torch.tensor([[1.0, s]])),
        lambda p, s: Image.fromarray(p).filter(ImageFilter.GaussianBlur(s)),
        (SIGMAS, 6.0, 0.5),
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_equals_pillow(name):
    ours, reference, (values, worst, mean) = OPERATIONS[name]
    errors = []
    for seed in range(4):
        pixels = natural(seed)
        for value in values:
            result = 255 * ours(to_tensor(pixels), value)[0].permute(1, 2, 0).numpy()
            errors.append(np.abs(result - np.asarray(reference(pixels, value), dtype=np.float64)))
    report(name, errors)
    assert np.max(errors) <= worst
    assert np.mean(errors) <= mean


def test_a_whole_jitter_is_close_to_pillows():
    rng = np.random.default_rng(0)
    errors = []
    for seed in range(40):
        pixels = natural(seed)
        order = rng.permutation(4)
        factors = rng.uniform(0.6, 1.4, 3)
        shift = rng.uniform(-0.1, 0.1)
        picture = Image.fromarray(pixels)
        for operation in order:
            if operation == 3:
                picture = pillow_hue(picture, shift)
            else:
                enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
                picture = enhance[operation](picture).enhance(factors[operation])
        ours = jitter(to_tensor(pixels), order, *factors, hue=int(shift * 255) / 255)
        errors.append(np.abs(255 * ours[0].permute(1, 2, 0).numpy() - np.asarray(picture, float)))
    # Pillow clamps and rounds after each operation, this once: it shows where colours saturate.
    share = np.mean(np.array(errors) <= 4)
    report(f"whole jitter, {100 * share:.1f} % within 4 levels", errors)
    assert np.mean(errors) < 2
    assert share > 0.9


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_one_pass_equals_the_operations_in_any_order(order):
    images = 0.4 + 0.2 * torch.rand(2, 3, 6, 5, dtype=torch.float64)  # nothing to clamp
    shift = torch.tensor([0.1, 0.1], dtype=torch.float64)
    reference = images
    for operation in order:
        if operation == 0:
            reference = 1.3 * reference
        elif operation == 1:
            mean = color.luma(reference).mean((2, 3), keepdim=True)
            reference = 0.7 * reference + 0.3 * mean
        elif operation == 2:
            reference = 1.2 * reference - 0.2 * color.luma(reference)
        else:
            reference = color.turn_hue(reference, shift)
    torch.testing.assert_close(jitter(images, order, 1.3, 0.7, 1.2, 0.1), reference)


@pytest.mark.parametrize("shift", [-1 / 6, -0.07, 0.0, 0.1, 1 / 6])
def test_hue_equals_hsv(shift):
    pixels = np.concatenate(
        [np.random.default_rng(0).random((500, 3)), np.eye(3), 1 - np.eye(3), np.full((2, 3), 0.3)]
    )
    reference = []
    for pixel in pixels:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        reference.append(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value))
    images = torch.from_numpy(pixels).T[None, :, :, None]
    turned = color.turn_hue(images, torch.tensor([shift], dtype=torch.float64))
    np.testing.assert_allclose(turned[0, :, :, 0].T.numpy(), reference, atol=1e-12)


def test_a_large_hue_is_turned_in_steps():
    images = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    third = color.jitter(
        images,
        torch.tensor([1 / 3], dtype=torch.float64),
        torch.eye(5, dtype=torch.float64)[:1],
        steps=3,
    )
    torch.testing.assert_close(third, images.roll(1, 1))  # red becomes green


def test_drawn_factors_have_torchvisions_ranges_and_orders():
    transform, rng = ColorJitter(0.4, 0, 0, 0.1), np.random.default_rng(0)
    params = np.stack([transform.draw(rng) for _ in range(2000)])
    assert params.dtype == np.float32
    assert abs(params[:, 0].mean() - 0.8) < 0.03
    assert abs(params[:, 1]).max() <= 0.1
    assert abs(params[:, 1].std() - 0.2 / 12**0.5) < 0.003
    brightness = params[:, 2]
    assert brightness.min() >= 0.6
    assert brightness.max() <= 1.4
    assert abs(brightness.std() - 0.8 / 12**0.5) < 0.01
    strong = ColorJitter(brightness=2, contrast=0, saturation=0)
    factors = [strong.draw(rng)[2] for _ in range(500)]
    assert min(factors) >= 0
    assert max(factors) > 2.8


@pytest.mark.parametrize("shape", [(9, 9), (70, 130), (33, 200)])
def test_blur_equals_a_padded_convolution(shape):
    images = torch.rand(2, 3, *shape, dtype=torch.float64)
    sigma = torch.tensor([0.3, 2.0], dtype=torch.float64)
    blurred = blur.gaussian_blur(images, sigma, 8)
    steps = torch.arange(-8, 9, dtype=torch.float64)
    for image, result, width in zip(images, blurred, sigma, strict=True):
        kernel = torch.exp(-0.5 * (steps / width) ** 2)
        kernel = (kernel / kernel.sum())[None, None, None]
        padded = F.pad(image, (8, 8, 8, 8), mode="reflect")[:, None]
        reference = F.conv2d(F.conv2d(padded, kernel), kernel.mT)[:, 0]
        torch.testing.assert_close(result, reference, atol=1e-8, rtol=0)


def test_blur_keeps_the_brightness_of_an_image_smaller_than_its_kernel():
    images = torch.full((1, 3, 2, 3), 0.5)
    torch.testing.assert_close(blur.gaussian_blur(images, torch.tensor([2.0]), 8), images)


TRANSFORMS = [ColorJitter(), Grayscale(), GaussianBlur(), Solarize(), Normalize("clip")]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("size", [20, 300])
def test_a_sample_does_not_depend_on_its_batch_nor_on_the_memory_format(transform, size):
    rng = np.random.default_rng(0)
    images = torch.rand(6, 3, size, size)
    params = torch.from_numpy(np.stack([transform.draw(rng) for _ in range(6)]))
    batch = transform.apply(images.clone(), params)
    alone = [transform.apply(images[i : i + 1].clone(), params[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(batch, torch.cat(alone), atol=1e-6, rtol=1e-5)
    other = images.clone(memory_format=torch.channels_last)
    torch.testing.assert_close(batch, transform.apply(other, params), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("transform", TRANSFORMS[:4], ids=lambda t: type(t).__name__)
def test_what_is_not_drawn_is_left_exactly(transform):
    images = torch.rand(3, 3, 16, 16)
    params = torch.from_numpy(np.stack([transform.draw(np.random.default_rng(0))] * 3))
    params[:, 0] = torch.tensor([0.0, 1.0, 0.0])
    result = transform.apply(images.clone(), params)
    assert torch.equal(result[0], images[0])
    assert torch.equal(result[2], images[2])
    assert not torch.equal(result[1], images[1])


@pytest.mark.parametrize("transform", TRANSFORMS[:4], ids=lambda t: type(t).__name__)
def test_a_device_computes_with_static_shapes(transform):
    params = torch.from_numpy(np.stack([transform.draw(np.random.default_rng(0))] * 3))
    images = torch.empty(3, 3, 16, 16, device="meta")
    assert transform.apply(images, params.to("meta")).shape == images.shape


def test_where_drawn_agrees_between_skipping_and_discarding():
    images, params = torch.rand(5, 3, 4, 4), torch.tensor([[1.0], [0], [1], [0], [1]])
    skipped = where_drawn(lambda x, p: x + p[:, 0, None, None, None], images.clone(), params)
    torch.testing.assert_close(skipped, images + params[:, 0, None, None, None])


def test_normalize_uses_the_published_statistics():
    for name, mean, std in (("imagenet", 0.485, 0.229), ("clip", 0.48145466, 0.26862954)):
        transform = Normalize(name)
        params = torch.from_numpy(transform.draw(np.random.default_rng(0)))[None]
        result = transform.apply(torch.ones(1, 3, 2, 2), params)
        assert result[0, 0, 0, 0].item() == pytest.approx((1 - mean) / std, rel=1e-6)
    custom = Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    params = torch.from_numpy(custom.draw(np.random.default_rng(0)))[None]
    assert custom.apply(torch.zeros(1, 3, 1, 1), params).flatten().tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: ColorJitter(brightness=-1), "brightness"),
        (lambda: ColorJitter(hue=0.7), "hue"),
        (lambda: Grayscale(prob=2), "prob"),
        (lambda: GaussianBlur(sigma=(0, 2)), "sigma"),
        (lambda: GaussianBlur(prob=-0.1), "prob"),
        (lambda: Solarize(prob=7), "prob"),
        (lambda: Normalize("imagnet"), "mean"),
        (lambda: Normalize((0.5, 0.5)), "std"),
        (lambda: Normalize((0.5, 0.5), (1, 1, 1)), "mean"),
        (lambda: Normalize("clip", (1, 0, 1)), "std"),
    ],
)
def test_errors_name_the_argument(build, name):
    with pytest.raises(ValueError, match=name):
        build()
