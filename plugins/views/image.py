"""Worker transforms of images: composing, cropping, flipping, on uint8 ``[H, W, 3]``.

An image may arrive with straight (not premultiplied) alpha, ``[H, W, 4]``. Resizing straight alpha
mixes in the colour of invisible pixels, so alpha is always composed away *before* a crop:
``Background`` does so over a drawn colour, and a crop that still meets alpha composes over white.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, sqrt
from typing import Any

import cv2
import numpy as np

from webssl_toolbox.data.sample import Sample
from webssl_toolbox.data.views import Context, Transform

from ._common import probability

WHITE = (255, 255, 255)
INTERPOLATIONS = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


class Background(Transform):
    """Composes an image with alpha over a plain colour; an RGB image passes unchanged.

    It belongs before any crop, which would find no alpha otherwise than by composing over white.

    Args:
        white: probability of a near-white background; else each channel is uniform in [0, 255].
            ``Background(white=1, jitter=0)`` is plain white, for evaluation.
        jitter: a near-white channel is uniform in [255 - jitter, 255].
    """

    def __init__(self, white: float = 0.7, jitter: int = 16) -> None:
        self.white = probability("white", white)
        if not 0 <= jitter <= 255:
            raise ValueError(f"jitter is in levels of 8 bits, from 0 to 255, but it is {jitter}")
        self.jitter = jitter

    def __call__(self, value: Any, sample: Sample, rng: np.random.Generator) -> Any:
        # Drawn even for RGB: what follows in the view must not depend on the file's format.
        near_white, *color = rng.random(4).tolist()
        if value.shape[2] == 3:
            return value
        low = 255 - self.jitter if near_white < self.white else 0
        return compose(value, [low + int(c * (256 - low)) for c in color])


class Sized(Transform):
    """A transform to the side of a tower's input, so that a config says it once.

    Args:
        size: side of the result in pixels; None for that of the image tower.
    """

    def __init__(self, size: int | None) -> None:
        self.size = 0 if size is None else positive("size", size)

    def bind(self, context: Context) -> None:
        """Takes the size of the image tower's input, unless one was given."""
        if not self.size:
            size = context.input_size()
            if size is None:
                raise ValueError(
                    f"{type(self).__name__}: give a size, since no image tower has one"
                )
            self.size = size


class RandomResizedCrop(Sized):
    """Cuts a random box of the image and resizes it to a square.

    Inception's augmentation (Szegedy et al. 2014, arXiv:1409.4842), with the sampling of
    ``torchvision.transforms.RandomResizedCrop``: ten tries, then the largest central box.

    Args:
        size: side of the result in pixels; None for that of the image tower.
        scale: range of the box's share of the image's area.
        ratio: range of width / height, drawn uniformly in the logarithm.
        interpolation: ``'linear'`` or ``'cubic'``, see ``resize``.
    """

    def __init__(
        self,
        size: int | None = None,
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "linear",
    ) -> None:
        super().__init__(size)
        self.scale = interval("scale", scale, 1.0)
        self.log_ratio = tuple(log(r) for r in interval("ratio", ratio, float("inf")))
        self.interpolation = interpolation_flag(interpolation)

    def __call__(self, value: Any, sample: Sample, rng: np.random.Generator) -> Any:
        top, left, height, width = self.box(value.shape[0], value.shape[1], rng)
        # Composing after the cut, and before the resize, touches the fewest pixels.
        crop = opaque(value[top : top + height, left : left + width])
        return resize(crop, self.size, self.size, self.interpolation)

    def box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draws ``(top, left, height, width)`` inside an image of the given size."""
        (small, large), (flat, wide) = self.scale, self.log_ratio
        for _ in range(10):
            # One call for the four draws of a try: numpy's overhead is per call.
            u_area, u_ratio, u_top, u_left = rng.random(4).tolist()
            area = height * width * (small + (large - small) * u_area)
            aspect = exp(flat + (wide - flat) * u_ratio)
            w, h = round(sqrt(area * aspect)), round(sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w
        aspect = min(max(width / height, exp(flat)), exp(wide))
        h = min(height, max(1, round(width / aspect)))
        w = min(width, max(1, round(height * aspect)))
        return (height - h) // 2, (width - w) // 2, h, w


class ResizeCenterCrop(Sized):
    """Resizes the shorter side, then cuts the central square: the usual view for evaluation.

    Args:
        size: side of the result in pixels; None for that of the image tower.
        resize: shorter side before the cut, at least ``size`` (256 for 224 on ImageNet); None
            takes ``size``, the whole central square.
        interpolation: ``'linear'`` or ``'cubic'``, see ``resize``.
    """

    def __init__(
        self, size: int | None = None, resize: int | None = None, interpolation: str = "linear"
    ) -> None:
        super().__init__(size)
        self.resize = resize
        self._check()
        self.interpolation = interpolation_flag(interpolation)

    def bind(self, context: Context) -> None:
        """Takes the size of the image tower's input, unless one was given."""
        super().bind(context)
        self._check()

    def _check(self) -> None:
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize must be at least size={self.size}, but it is {self.resize}")

    def __call__(self, value: Any, sample: Sample, rng: np.random.Generator) -> Any:
        height, width = value.shape[:2]
        short, wanted = min(height, width), self.resize or self.size
        height, width = wanted * height // short, wanted * width // short
        image = resize(opaque(value), height, width, self.interpolation)
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return image[top : top + self.size, left : left + self.size]


class RandomFlip(Transform):
    """Mirrors left and right with probability ``prob``."""

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = probability("prob", prob)

    def __call__(self, value: Any, sample: Sample, rng: np.random.Generator) -> Any:
        # cv2.flip writes a contiguous image; a view with negative strides collates slowly.
        return cv2.flip(value, 1) if rng.random() < self.prob else value


def resize(image: np.ndarray, height: int, width: int, interpolation: int) -> np.ndarray:
    """Resizes uint8 ``[H, W, C]`` without aliasing.

    Interpolation alone reads a fixed number of pixels, so it skips some once a side shrinks by two
    or more. Whole factors are therefore averaged away first, which OpenCV has a fast path for. On
    natural textures shrunk by 2.2, the mean distance to Pillow's antialiased resize is 0.3 levels
    of 8 bits (plain bilinear: 0.7; ``INTER_AREA``: 0.25, at seven times the cost).
    """
    rows, columns = image.shape[0] // height, image.shape[1] // width
    if rows > 1 or columns > 1:
        rows, columns = max(rows, 1), max(columns, 1)
        h, w = image.shape[0] // rows, image.shape[1] // columns
        image = cv2.resize(image[: h * rows, : w * columns], (w, h), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (width, height), interpolation=interpolation)


def opaque(image: np.ndarray) -> np.ndarray:
    """Returns RGB as it is, and composes RGBA over white."""
    return image if image.shape[2] == 3 else compose(image, WHITE)


def compose(image: np.ndarray, color: Sequence[int]) -> np.ndarray:
    """Composes uint8 RGBA ``[H, W, 4]``, straight alpha, over a colour; returns ``[H, W, 3]``."""
    # Alpha as three channels: numpy is slow along an axis of three that it must broadcast.
    alpha = cv2.cvtColor(image[:, :, 3], cv2.COLOR_GRAY2RGB).astype(np.uint16)
    mixed: np.ndarray = cv2.cvtColor(image, cv2.COLOR_RGBA2RGB) * alpha
    mixed += (255 - alpha) * np.array(color, dtype=np.uint16)
    # Division by 255, rounded, exact for such sums (Blinn 1995).
    mixed += 128
    mixed += mixed >> 8
    mixed >>= 8
    return mixed.astype(np.uint8)


def positive(name: str, value: int) -> int:
    """Returns ``value``, or raises ValueError where it is not at least one."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1, but it is {value}")
    return value


def interval(name: str, value: Sequence[float], upper: float) -> tuple[float, float]:
    """Returns ``(low, high)`` with 0 < low <= high <= upper, or raises ValueError."""
    if len(value) != 2 or not 0 < value[0] <= value[1] <= upper:
        raise ValueError(f"{name} must be (low, high), 0 < low <= high <= {upper:g}, not {value}")
    return value[0], value[1]


def interpolation_flag(name: str) -> int:
    """Returns OpenCV's flag for ``'linear'`` or ``'cubic'``."""
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be 'linear' or 'cubic', but it is {name!r}")
    return INTERPOLATIONS[name]
