"""Depth from bins, and the errors of logarithms of depth that heads are trained by."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-3  # metres: keeps logarithms finite
STRIDES = (1, 2, 4, 6)  # of the images whose gradients are compared


def expected_depth(logits: Tensor, bins: Tensor) -> Tensor:
    """Returns the mean depth over bins, each weighted by its rectified logit plus 0.1.

    "Linear" normalisation, after AdaBins (arXiv 2011.14141) and DINOv2's heads of depth.

    Args:
        logits: ``[B, K, H, W]``.
        bins: depth of each, ``[K]``.

    Returns:
        ``[B, 1, H, W]``, in the unit of ``bins``.
    """
    weights = logits.relu() + 0.1
    mean = torch.einsum("bkhw,k->bhw", weights, bins) / weights.sum(1)
    return mean[:, None]


def scale_invariant_error(found: Tensor, depth: Tensor, scale_only: bool = False) -> Tensor:
    """Returns ``sqrt(var(g) + 0.15 mean(g)^2)`` of the log ratio g where depth is known.

    With lambda = 0.85 it is AdaBins' loss (arXiv 2011.14141, equation 4) over 10; the variance is
    the unbiased one, as in DINOv2.

    Args:
        found: positive, of any shape.
        depth: of the same; 0 where it is not known.
        scale_only: leave out the variance: for the first steps.

    Returns:
        A scalar; 0 where fewer than two depths are known.
    """
    known = depth > 0
    if known.sum() < 2:
        return found.sum() * 0
    ratio = (found[known] + EPS).log() - (depth[known] + EPS).log()
    if scale_only:
        return 0.15**0.5 * ratio.mean().abs()
    return (ratio.var() + 0.15 * ratio.mean() ** 2).sqrt()


def gradient_error(found: Tensor, depth: Tensor) -> Tensor:
    """Returns how much the log ratio changes over two pixels, down and across, at four scales.

    After MegaDepth (arXiv 1804.00607, equation 5), with the strides of DINOv2. There it is taken
    along the first two axes of a batch, which are not those of an image; here along the last two.

    Args:
        found: positive, ``[B, 1, H, W]``.
        depth: of the same shape; 0 where it is not known.

    Returns:
        A scalar: for each scale the sum over pairs of known depths, over the known ones.
    """
    total = found.sum() * 0
    for stride in STRIDES:
        small, true = found[..., ::stride, ::stride], depth[..., ::stride, ::stride]
        known = true > 0
        ratio = (small + EPS).log() - (true.clamp_min(0) + EPS).log()
        down = (ratio[..., 2:, :] - ratio[..., :-2, :]).abs() * (
            known[..., 2:, :] & known[..., :-2, :]
        )
        across = (ratio[..., 2:] - ratio[..., :-2]).abs() * (known[..., 2:] & known[..., :-2])
        total = total + (down.sum() + across.sum()) / known.sum().clamp_min(1)
    return total
