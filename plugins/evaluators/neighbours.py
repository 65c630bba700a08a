"""Pictures of nearest neighbours: what the image tower takes for alike."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from webssl_toolbox.encoder import Encoder
from webssl_toolbox.registry import DATASETS

from ._common import Config, check_positive, class_ids
from ._grid import RIGHT, WRONG, Cell, draw_grid, images_of, spread
from ._lettering import Fonts


class Neighbours:
    """Draws images, each with those of a bank whose pooled features are nearest to its own.

    A neighbour is framed green where its class has the name of the query's, red where it has
    another, and not at all where one of the two has no label. Where bank and queries are one
    dataset, no image is its own neighbour.

    Args:
        bank: dataset config of the neighbours.
        queries: dataset config; evenly spaced samples of it are shown, the same at every step.
        count: queries shown.
        k: neighbours of each.
        font: a TrueType file, for words that are not ASCII; they are else written as escapes.

    Raises:
        ValueError: an unknown dataset or argument in ``bank`` or ``queries``, a number that is not
            positive, or a file that is no font.
    """

    def __init__(
        self, bank: Config, queries: Config, count: int = 8, k: int = 6, font: str | None = None
    ) -> None:
        check_positive(count=count, k=k)
        Fonts(font)  # now, not when the first evaluation is due
        DATASETS.check(bank, "bank")
        DATASETS.check(queries, "queries")
        self.bank, self.queries, self.count, self.k = bank, queries, count, k
        self.font = font

    def run(self, model: Encoder) -> dict[str, np.ndarray]:
        """Returns ``grid``: a row for each query."""
        bank, queries = model.encode_dataset(self.bank), model.encode_dataset(self.queries)
        shown = spread(len(queries.features), self.count)
        directions = F.normalize(queries.features[shown], dim=1)
        similarity = directions @ F.normalize(bank.features, dim=1).T
        itself = self.bank == self.queries
        if itself:
            similarity[torch.arange(len(shown)), torch.tensor(shown)] = -torch.inf
        k = min(self.k, len(bank.features) - itself)
        found = similarity.topk(k, dim=1).indices

        names: dict[str, int] = {}
        query_ids = class_ids(queries.labels[shown], queries.classes, names).tolist()
        bank_ids = class_ids(bank.labels, bank.classes, names).tolist()
        called = [*names, ""]  # -1, no label, picks the last
        left = images_of(self.queries, queries, shown)
        right = images_of(self.bank, bank, found.flatten().tolist())
        rows = []
        for query, wanted, neighbours in zip(shown, query_ids, found.tolist(), strict=True):
            row = [Cell(left[query], called[wanted])]
            for i in neighbours:
                known = wanted >= 0 and bank_ids[i] >= 0
                frame = (RIGHT if bank_ids[i] == wanted else WRONG) if known else None
                row.append(Cell(right[i], called[bank_ids[i]], frame))
            rows.append(row)
        return {
            "grid": draw_grid(["query", "nearest", *map(str, range(2, k + 1))], rows, self.font)
        }
