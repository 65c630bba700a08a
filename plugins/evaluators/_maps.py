"""Values of patches as pictures: colours of classes and of strengths, at the size of the image."""

from __future__ import annotations

from collections.abc import Mapping
from colorsys import hsv_to_rgb
from math import isqrt

import cv2
import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from webssl_toolbox.encoder import Encoder, MissingPart

from ._common import Config
from ._grid import GAP, PAPER, shown
from ._lettering import FAINT, LINE, Color, Fonts


def prepare(cfg: Config, count: int, zoom: int, model: Encoder) -> Tensor:
    """Returns evenly spaced images of a dataset as the image tower reads them, ``[N, 3, S, S]``.

    Args:
        cfg: dataset config.
        count: images; all where there are fewer.
        zoom: S over the side that ``test_view`` gives: patches stay, and a map has more of them.
        model: which prepares them.

    Raises:
        ValueError: none of them can be read.
    """
    return F.interpolate(model.prepare(shown(cfg, count)), scale_factor=zoom, mode="bilinear")


def grid_side(patches: int, size: int) -> int:
    """Returns the rows of a square grid of patches.

    Args:
        patches: how many tokens a tower returned for an image.
        size: side of the image in pixels.

    Raises:
        MissingPart: they are no grid, or a single cell.
    """
    side = isqrt(patches)
    if side < 2 or side**2 != patches or size % side:
        raise MissingPart(
            f"its image tower gives {patches} tokens for {size} x {size} pixels, and no grid of "
            "patches; use a ViT"
        )
    return side


def enlarge(values: np.ndarray, size: int) -> np.ndarray:
    """Paints each patch as a square.

    Args:
        values: ``[N, P, ...]``, of a square grid of P patches.
        size: side of the pictures, a multiple of the grid's.

    Returns:
        ``[N, size, size, ...]``.
    """
    side = isqrt(values.shape[1])
    grid = values.reshape(len(values), side, side, *values.shape[2:])
    return grid.repeat(size // side, axis=1).repeat(size // side, axis=2)


def heat(values: Tensor) -> np.ndarray:
    """Colours ``[..., P]``, from dark to bright up to the largest of P; uint8 ``[..., P, 3]``."""
    strength = values / values.amax(-1, keepdim=True).clamp_min(1e-12)
    levels = (255 * strength).round().byte().numpy()
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    table = cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)[:, 0, ::-1]
    return table[levels]


def palette(count: int) -> list[Color]:
    """Returns colours that are easy to tell apart: hues, by turns bright and dark."""
    shades = (hsv_to_rgb(i / count, *((0.6, 1.0), (1.0, 0.6))[i % 2]) for i in range(count))
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in shades]


def with_legend(picture: np.ndarray, colours: Mapping[str, Color]) -> np.ndarray:
    """Adds lines below a picture that say which colour is what."""
    fonts = Fonts()
    places, x, line = [], GAP, 0
    for name in colours:
        width = 2 * LINE + round(fonts.small.getlength(name))
        if x + width > picture.shape[1] and x > GAP:
            x, line = GAP, line + 1
        places.append((x, line * (LINE + 4)))
        x += width
    page = Image.new("RGB", (picture.shape[1], places[-1][1] + LINE + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    for (left, top), (name, colour) in zip(places, colours.items(), strict=True):
        draw.rectangle((left, top + 2, left + 11, top + 13), colour)
        draw.text((left + LINE, top), fonts.readable(name), FAINT, fonts.small)
    return np.concatenate([picture, np.asarray(page)])
