"""Device transforms of images: colour, solarisation, normalisation; batched, drawn per sample.

Parameters were drawn in the worker and travel with the sample, so nothing here has a random state.
The first column of ``params`` says whether the operation was drawn for the sample at all.

Distance to Pillow, which rounds each result to 8 bits and HSV too, on smooth coloured noise, in
levels of 8 bits (bounded in tests/test_views_color.py):

==============  =======  ====  ===================================================
operation       largest  mean
==============  =======  ====  ===================================================
brightness          0.8  0.31
contrast            1.1  0.32
saturation          1.2  0.33
hue                 8.6  0.36  exact against HSV in floating point
grayscale           0.5  0.25
solarize            0.0  0.00
whole jitter      102    1.88  95 % within 4 levels; Pillow clamps after each step
==============  =======  ====  ===================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from torch import Tensor

from webssl_toolbox.data.views import DeviceTransform

from ._common import probability, where_drawn

LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601-2, what Pillow's mode ``L`` and torchvision use."""

STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Mean and standard deviation of each channel, for images in [0, 1]."""


class ColorJitter(DeviceTransform):
    """Jitters brightness, contrast, saturation and hue in a random order, like torchvision's.

    A strength s draws its factor uniformly from [max(0, 1 - s), 1 + s]; ``hue`` draws a shift from
    [-hue, hue], in turns of the colour wheel. See ``jitter`` for how one pass does all four, and
    for its one difference: values are clamped to [0, 1] once, at the end.

    Args:
        brightness: strength.
        contrast: strength.
        saturation: strength.
        hue: largest shift in turns, at most 0.5.
        prob: probability that a sample is jittered at all.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        prob: float = 0.8,
    ) -> None:
        self.strengths = (brightness, contrast, saturation)
        if min(self.strengths) < 0:
            raise ValueError("brightness, contrast and saturation must not be negative")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue is in turns of the colour wheel, from 0 to 0.5, not {hue}")
        self.hue = hue
        self.prob = probability("prob", prob)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draws ``[drawn, shift, *coefficients]``, float32 ``[7]``, see ``jitter``."""
        drawn, u_hue, *uniform = rng.random(9).tolist()
        factors = [
            max(0.0, 1 - s) + u * (1 + s - max(0.0, 1 - s))
            for s, u in zip(self.strengths, uniform[:3], strict=True)
        ]
        # Ranks of uniform numbers are a uniform permutation, cheaper than rng.permutation.
        order = sorted(range(4), key=uniform[3:].__getitem__)
        shift = (2 * u_hue - 1) * self.hue
        return np.array(
            [drawn < self.prob, shift, *compose_jitter(order, *factors)], dtype=np.float32
        )

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        # A hue step turns by a sixth at most, and two steps of half the angle are one exactly.
        steps = ceil(6 * self.hue)
        return where_drawn(lambda x, p: jitter(x, p[:, 1], p[:, 2:], steps), images, params)


class Grayscale(DeviceTransform):
    """Replaces all channels by the luma with probability ``prob``."""

    def __init__(self, prob: float = 0.2) -> None:
        self.prob = probability("prob", prob)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return np.array([rng.random() < self.prob], dtype=np.float32)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        return where_drawn(lambda x, _: luma(x).expand_as(x), images, params)


class Solarize(DeviceTransform):
    """Inverts the values from ``threshold`` on, with probability ``prob`` (BYOL's second view)."""

    def __init__(self, threshold: float = 0.5, prob: float = 0.2) -> None:
        self.threshold = threshold
        self.prob = probability("prob", prob)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return np.array([rng.random() < self.prob], dtype=np.float32)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        # Decoded levels k / 255 and a threshold such as 128 / 255 must compare as integers would.
        limit = self.threshold - 1e-6
        return where_drawn(lambda x, _: torch.where(x < limit, x, 1 - x), images, params)


class Normalize(DeviceTransform):
    """Subtracts the mean and divides by the standard deviation of each channel.

    Args:
        mean: ``'imagenet'``, ``'clip'`` or three numbers, for images in [0, 1].
        std: likewise; None for the one that belongs to a named mean.
    """

    def __init__(
        self,
        mean: str | Sequence[float] = "imagenet",
        std: str | Sequence[float] | None = None,
    ) -> None:
        if std is None and not isinstance(mean, str):
            raise ValueError("std is missing: only a named mean brings its own")
        means = np.array(statistics("mean", mean))
        deviations = np.array(statistics("std", mean if std is None else std))
        if min(deviations) <= 0:
            raise ValueError(f"std must be positive, but it is {std}")
        self.constants = np.concatenate([-means / deviations, 1 / deviations]).astype(np.float32)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Returns the constants, which so reach the device with the batch."""
        return self.constants

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        offset, scale = params[:, :3, None, None], params[:, 3:, None, None]
        return images.mul_(scale).add_(offset)


def compose_jitter(
    order: Sequence[int], brightness: float, contrast: float, saturation: float
) -> tuple[float, float, float, float, float]:
    """Composes the four operations in a given order into the coefficients that ``jitter`` takes.

    Write x for a pixel, y for x turned in hue, L for the luma and m for its mean over the image.
    Each operation maps ``a y + b L(x) + c L(y) + d m(x) + e m(y)`` to an expression of this form
    again, because a turn in hue commutes with scaling and with adding gray:

    * brightness f scales it;
    * contrast f keeps the share f, and adds 1 - f of the mean luma;
    * saturation f keeps the share f, and adds 1 - f of the luma;
    * hue turns x, which so far stood in the place of y, into y.

    Args:
        order: permutation of 0 (brightness), 1 (contrast), 2 (saturation), 3 (hue).
        brightness: factor.
        contrast: factor.
        saturation: factor.

    Returns:
        ``(a, b, c, d, e)``.
    """
    a, b, c, d, e = 1.0, 0.0, 0.0, 0.0, 0.0
    turned = False
    for operation in order:
        # The luma of the expression. Before the turn, the colour term's is that of x.
        of_x, of_y = (b, a + c) if turned else (a + b, c)
        if operation == 0:
            f = brightness
            a, b, c, d, e = f * a, f * b, f * c, f * d, f * e
        elif operation == 1:
            f = contrast
            a, b, c = f * a, f * b, f * c
            d, e = d + (1 - f) * of_x, e + (1 - f) * of_y
        elif operation == 2:
            f = saturation
            a, b, c = f * a, f * b + (1 - f) * of_x, f * c + (1 - f) * of_y
        else:
            turned = True
    return a, b, c, d, e


def jitter(images: Tensor, shift: Tensor, coefficients: Tensor, steps: int = 1) -> Tensor:
    """Evaluates ``a y + b L(x) + c L(y) + d m(x) + e m(y)``, clamped to [0, 1].

    Args:
        images: x, ``[B, 3, H, W]``.
        shift: of the hue in turns, ``[B]``.
        coefficients: ``[B, 5]``, from ``compose_jitter``.
        steps: of the hue's turn, at least six times the largest shift; 0 leaves the hue.
    """
    a, b, c, d, e = coefficients[:, :, None, None, None].unbind(1)
    turned = images
    for _ in range(steps):
        turned = turn_hue(turned, shift / steps)
    before = luma(images)
    after = luma(turned) if steps else before
    constant = d * before.mean((2, 3), keepdim=True) + e * after.mean((2, 3), keepdim=True)
    gray = (before * b).add_(constant).add_(after.mul_(c))
    return torch.addcmul(gray, turned, a, out=turned if steps else None).clamp_(0, 1)


def turn_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shifts the hue in HSV exactly, without leaving RGB.

    At constant value and chroma, a channel is a trapezoid over the colour wheel: it moves by the
    angle where it is neither the largest nor the smallest, and elsewhere once the other two leave
    less than that angle to its edge. With C the chroma, d the angle in sixths of a turn and w the
    difference of the next two channels, all cases are one expression, for |d| <= 1::

        clamp(channel - sign(d) softshrink(w, (1 - |d|) C), min, max)

    Args:
        images: ``[B, 3, H, W]``.
        shift: in turns, ``[B]``, at most a sixth.
    """
    red, green, blue = images.unbind(1)
    low = torch.minimum(torch.minimum(red, green), blue)
    high = torch.maximum(torch.maximum(red, green), blue)
    sixths = 6 * shift[:, None, None]
    sign = sixths.sign()
    edge = (high - low).mul_(1 - sixths.abs())
    minus_edge = -edge
    out = torch.empty_like(images)
    step = torch.empty_like(red)
    wheel = ((red, green, blue), (green, blue, red), (blue, red, green))
    # In place: on a CPU, fresh memory costs more than the arithmetic.
    for target, (channel, following, last) in zip(out.unbind(1), wheel, strict=True):
        torch.sub(following, last, out=target)
        torch.clamp(target, minus_edge, edge, out=step)
        step.sub_(target).mul_(sign).add_(channel)
        torch.clamp(step, low, high, out=target)
    return out


def luma(images: Tensor) -> Tensor:
    """Returns the luma of ``[B, 3, H, W]`` as ``[B, 1, H, W]``."""
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def statistics(name: str, value: str | Sequence[float]) -> tuple[float, ...]:
    """Returns three numbers: ``value``, or what is published under that name."""
    if isinstance(value, str):
        if value not in STATISTICS:
            raise ValueError(f"{name} must be 'imagenet', 'clip' or three numbers, not {value!r}")
        return STATISTICS[value][name == "std"]
    if len(value) != 3:
        raise ValueError(f"{name} needs one number for each of 3 channels, but it is {value}")
    return tuple(value)
