"""Between uint8 pixels and the scale that ``test_view`` gives to images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from webssl_toolbox.data.sample import Sample
from webssl_toolbox.encoder import Encoder


def from_pixels(model: Encoder, images: np.ndarray) -> Tensor:
    """Normalises uint8 ``[N, S, S, 3]`` as they are: a view might crop; ``[N, 3, S, S]``."""
    black, white = _extremes(model)
    pixels = torch.from_numpy(images).to(black.device).permute(0, 3, 1, 2) / 255
    return black + pixels * (white - black)


def to_pixels(model: Encoder, prepared: Tensor) -> np.ndarray:
    """Undoes the normalisation of ``test_view``.

    Args:
        model: whose view it is.
        prepared: ``[N, 3, S, S]``, as ``Encoder.prepare`` returns them or a decoder paints them.

    Returns:
        uint8 ``[N, S, S, 3]``; values outside of what a picture can show are clipped.
    """
    black, white = _extremes(model)
    images = (prepared - black) / (white - black) * 255
    return images.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def _extremes(model: Encoder) -> Tensor:
    """Returns what the view makes of black and of white, ``[2, 3, 1, 1]``."""
    samples = (Sample(np.full((8, 8, 3), level, np.uint8)) for level in (0, 255))
    return model.prepare(samples)[..., :1, :1]
