"""Gaussian blur on the device, batched, with a width of its own for each sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from webssl_toolbox.data.views import DeviceTransform

from ._common import probability, where_drawn


class GaussianBlur(DeviceTransform):
    """Blurs with a drawn standard deviation (SimCLR, arXiv:2002.05709; defaults of MoCo v2).

    Args:
        sigma: range of the standard deviation in pixels.
        prob: probability that a sample is blurred at all.
    """

    def __init__(self, sigma: Sequence[float] = (0.1, 2.0), prob: float = 0.5) -> None:
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1]:
            raise ValueError(f"sigma must be (low, high), 0 < low <= high, but it is {sigma}")
        self.sigma = sigma
        self.prob = probability("prob", prob)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draws ``[drawn, sigma]``."""
        drawn, u = rng.random(2).tolist()
        low, high = self.sigma
        return np.array([drawn < self.prob, low + (high - low) * u], dtype=np.float32)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        return where_drawn(lambda x, p: gaussian_blur(x, p[:, 1]), images, params)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blurs by a Gaussian, reflecting at the border, as two matrix products.

    Up to 224 pixels, dense products cost no more than 13 taps do as shifted sums or as depthwise
    convolutions of few channels (measured on a CPU, and launch-bound on a GPU), whatever sigma is.

    Args:
        images: ``[B, 3, H, W]``.
        sigma: standard deviation in pixels, ``[B]``, above 0.
    """
    height, width = images.shape[2:]
    down = blur_matrix(sigma, height)
    across = down if width == height else blur_matrix(sigma, width)
    return down[:, None] @ images @ across[:, None].transpose(2, 3)


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """Returns ``[B, size, size]``, which maps a line of pixels to the blurred line.

    Entry (i, j) weighs pixel j and its mirror images beyond the two ends, about the pixels 0 and
    size - 1, by their distances to i.
    """
    steps = torch.arange(1 - size, 2 * size - 1, device=sigma.device, dtype=sigma.dtype)
    weights = torch.exp(-0.5 * (steps / sigma[:, None]) ** 2)
    # What no 8-bit image can show is dropped: denormal numbers make products 20 times slower.
    weights = F.threshold(weights, 1e-7, 0.0)
    direct = weights[:, : 2 * size - 1].unfold(1, size, 1).flip(1)
    beyond_start = weights[:, size - 1 :].unfold(1, size, 1).clone()
    beyond_start[:, :, 0] = 0  # pixel 0 is its own mirror image
    matrix = direct.add_(beyond_start).add_(beyond_start.flip(1, 2))
    return matrix.div_(matrix.sum(2, keepdim=True))
