"""Pictures of retrieval: the images that a caption finds."""

from __future__ import annotations

import numpy as np

from webssl_toolbox.encoder import Encoder
from webssl_toolbox.registry import DATASETS

from ._common import Config, check_positive, joint
from ._grid import RIGHT, Cell, draw_grid, images_of, spread
from ._lettering import Fonts


class RetrievalGrid:
    """Draws captions, each with the images nearest to it in the joint space.

    An image that has this caption is framed green. As in ``Retrieval``, images without a caption
    are left out, and of equal captions one is asked for.

    Args:
        data: dataset config; evenly spaced captions of it are shown, the same at every step.
        count: captions shown.
        k: images found for each.
        font: a TrueType file, for words that are not ASCII; they are else written as escapes.

    Raises:
        ValueError: an unknown dataset or argument in ``data``, a number that is not positive,
            or a file that is no font.
    """

    def __init__(self, data: Config, count: int = 8, k: int = 5, font: str | None = None) -> None:
        check_positive(count=count, k=k)
        Fonts(font)  # now, not when the first evaluation is due
        DATASETS.check(data, "data")
        self.data, self.count, self.k, self.font = data, count, k, font

    def run(self, model: Encoder) -> dict[str, np.ndarray]:
        """Returns ``grid``: a row for each caption, with the rank of its own image.

        Raises:
            MissingPart: the model has no text tower or no joint space.
            ValueError: a dataset without captions.
        """
        split = model.encode_dataset(self.data)
        candidates = [i for i, caption in enumerate(split.captions) if caption]
        if not candidates:
            raise ValueError("data: no sample has a caption; leave this evaluator out")
        texts = list(dict.fromkeys(split.captions[i] for i in candidates))
        texts = [texts[i] for i in spread(len(texts), self.count)]
        similarity = model.encode_text(texts) @ joint(split)[candidates].T
        order = similarity.argsort(dim=1, descending=True, stable=True).tolist()
        ranked = [[candidates[i] for i in row] for row in order]
        images = images_of(self.data, split, (i for row in ranked for i in row[: self.k]))
        rows = []
        for text, row in zip(texts, ranked, strict=True):
            rank = 1 + next(at for at, i in enumerate(row) if split.captions[i] == text)
            cells = [
                Cell(images[i], frame=RIGHT if split.captions[i] == text else None)
                for i in row[: self.k]
            ]
            note = f"its image: {rank:,} of {len(row):,}"
            rows.append([Cell(None, text, note=note), *cells])
        k = min(self.k, len(candidates))
        return {
            "grid": draw_grid(["caption", "nearest", *map(str, range(2, k + 1))], rows, self.font)
        }
