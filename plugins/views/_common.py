"""What several transforms share: batching of drawn samples, and checks of arguments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


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
    for rows in torch.split(drawn.nonzero().flatten(), size):
        # One sample is taken as a slice, which is a view; an index copies.
        part = slice(int(rows[0]), int(rows[0]) + 1) if len(rows) == 1 else rows
        images[part] = function(images[part], params[part])
    return images


def probability(name: str, value: float) -> float:
    """Returns ``value``, or raises ValueError where it is outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability, from 0 to 1, but it is {value}")
    return value
