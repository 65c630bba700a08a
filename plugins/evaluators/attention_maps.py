"""Pictures of attention: where in an image its class token looks, head by head."""

from __future__ import annotations

import numpy as np

from webssl_toolbox.encoder import Encoder, MissingPart
from webssl_toolbox.registry import DATASETS

from ._common import Config, check_positive
from ._grid import Cell, draw_grid
from ._maps import enlarge, grid_side, heat, prepare
from ._scale import to_pixels


class AttentionMaps:
    """Draws what the class token attends to in the last block (DINO, arXiv 2104.14294, figure 1).

    Each map is as bright as its own largest value; the first is the mean over heads.

    Args:
        data: dataset config; evenly spaced samples of it are shown, the same at every step.
        count: images shown.
        heads: heads shown, the first ones; all where there are fewer.
        zoom: how far images are enlarged: maps of so many times more patches a side, where a tower
            takes images of any size, as a ViT does.

    Raises:
        ValueError: an unknown dataset or argument in ``data``, or a number that is not positive.
    """

    def __init__(self, data: Config, count: int = 8, heads: int = 6, zoom: int = 1) -> None:
        check_positive(count=count, heads=heads, zoom=zoom)
        DATASETS.check(data, "data")
        self.data, self.count, self.heads, self.zoom = data, count, heads, zoom

    def run(self, model: Encoder) -> dict[str, np.ndarray]:
        """Returns ``grid``: a row for each image.

        Raises:
            MissingPart: the image tower has no attention of a class token to show.
        """
        images = prepare(self.data, self.count, self.zoom, model)
        with model.evaluating():
            attention = model.tower(model.image).class_attention(images)
        if attention is None:
            raise MissingPart(f"its tower {model.image!r} has no attention of a class token")
        size = images.shape[-1]
        grid_side(attention.shape[-1], size)
        attention = attention.float().cpu()
        shown = attention[:, : self.heads]
        heads = ["image", "mean", *(f"head {i + 1}" for i in range(shown.shape[1]))]
        maps = [attention.mean(1), *shown.unbind(1)]
        columns = [to_pixels(model, images), *(enlarge(heat(each), size) for each in maps)]
        rows = zip(*columns, strict=True)
        return {"grid": draw_grid(heads, [[Cell(image) for image in row] for row in rows])}
