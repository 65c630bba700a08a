"""Pictures of patch tokens: what they vary in, over several images, as colours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from webssl_toolbox.encoder import Encoder
from webssl_toolbox.registry import DATASETS
from webssl_toolbox.towers import encode_batch

from ._common import Config, check_positive
from ._grid import PAPER, Cell, draw_grid
from ._maps import enlarge, grid_side, prepare
from ._scale import to_pixels

PAIRS = 4  # images of a row, each with its colours


class PatchPCA:
    """Draws the first three principal components of patch tokens as red, green and blue.

    Components are those of all images together, so that a colour means the same in each (DINOv2,
    arXiv 2304.07193, figure 1, where a threshold on the first also removes the background).

    Args:
        data: dataset config; evenly spaced samples of it are shown, the same at every step.
        count: images shown.
        zoom: how far images are enlarged: maps of so many times more patches a side, where a tower
            takes images of any size, as a ViT does.

    Raises:
        ValueError: an unknown dataset or argument in ``data``, or a number that is not positive.
    """

    def __init__(self, data: Config, count: int = 16, zoom: int = 1) -> None:
        check_positive(count=count, zoom=zoom)
        DATASETS.check(data, "data")
        self.data, self.count, self.zoom = data, count, zoom

    def run(self, model: Encoder) -> dict[str, np.ndarray]:
        """Returns ``grid``: images, and the colours of their patches.

        Raises:
            MissingPart: the image tower has no grid of patches.
        """
        images = prepare(self.data, self.count, self.zoom, model)
        with model.evaluating():
            tokens = encode_batch(model.tower(model.image), images).tokens.float().cpu()
        size = images.shape[-1]
        grid_side(tokens.shape[1], size)
        scores = principal(tokens.flatten(0, 1), 3).unflatten(0, tokens.shape[:2])
        painted = enlarge(rgb(scores), size)
        pairs = zip(to_pixels(model, images), painted, strict=True)
        cells = [Cell(image) for pair in pairs for image in pair]
        width = min(2 * PAIRS, len(cells))
        cells += [Cell(np.full((1, 1, 3), PAPER, np.uint8))] * (-len(cells) % width)
        rows = [cells[i : i + width] for i in range(0, len(cells), width)]
        return {"grid": draw_grid(["image", "components"] * (width // 2), rows)}


def principal(x: Tensor, count: int) -> Tensor:
    """Returns scores of ``[N, D]`` on its first principal components, float64 ``[N, count]``.

    The sign of a component is that which makes its largest loading positive.
    """
    x = x.double()
    x = x - x.mean(0)
    loadings = torch.linalg.eigh(x.T @ x).eigenvectors.flip(1)[:, :count]
    largest = loadings.gather(0, loadings.abs().argmax(0, keepdim=True))
    return x @ (loadings * largest.sign())


def rgb(scores: Tensor) -> np.ndarray:
    """Paints scores ``[..., 3]`` as uint8 colours; a hundredth at either end is clipped."""
    low, high = (
        torch.stack([each.quantile(q) for each in scores.flatten(0, -2).unbind(1)])
        for q in (0.01, 0.99)
    )
    return (
        (255 * (scores - low) / (high - low).clamp_min(1e-12)).round().clamp(0, 255).byte().numpy()
    )
