"""Device transforms of images: colour, solarisation, normalisation; batched, drawn per sample.

Parameters were drawn in the worker and travel with the sample, so nothing here has a random state.
The first column of ``params`` says whether the operation was drawn for the sample at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
import torch
from torch import Tensor

from webssl_toolbox.data.views import DeviceTransform

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
        self.mean = statistics("mean", mean)
        self.std = statistics("std", mean if std is None else std)  # type: ignore[arg-type]
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, but it is {self.std}")

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        # Channel by channel, in place: scalars need no transfer to the device.
        for channel, mean, std in zip(images.unbind(1), self.mean, self.std, strict=True):
            channel.sub_(mean).mul_(1 / std)
        return images


def where_drawn(
    function: Callable[[Tensor, Tensor], Tensor], images: Tensor, params: Tensor
) -> Tensor:
    """Applies ``function(images, params)`` to the samples whose first parameter is not zero.

    On the CPU the others cost nothing, and ``images`` is overwritten. On a device they are
    computed and discarded: a shape that depends on data would stop the host.

    Args:
        function: maps ``[b, 3, H, W]`` and ``[b, P]`` to ``[b, 3, H, W]``.
        images: float ``[B, 3, H, W]``.
        params: ``[B, P]``.
    """
    drawn = params[:, 0] > 0
    if images.device.type != "cpu":
        return torch.where(drawn[:, None, None, None], function(images, params), images)
    # As many samples at a time as stay in a core's cache: 1 of 224 pixels, 28 of 48.
    size = max(1, 2**16 // (images.shape[2] * images.shape[3]))
    for rows in drawn.nonzero().flatten().split(size):
        images[rows] = function(images[rows], params[rows])
    return images


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
        if operation == 3:
            turned = True
            continue
        f = (brightness, contrast, saturation)[operation]
        # Before the turn, the luma of the colour term is that of x.
        of_x, of_y = (b, a + c) if turned else (a + b, c)
        a, b, c, d, e = f * a, f * b, f * c, f * d, f * e
        if operation == 1:
            d, e = d + (1 - f) * (of_x + d / f_or_one(f)), e + (1 - f) * (of_y + e / f_or_one(f))
        elif operation == 2:
            b, c = b + (1 - f) * of_x, c + (1 - f) * of_y
    return a, b, c, d, e
