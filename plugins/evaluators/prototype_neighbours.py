"""Pictures of prototypes: the images that a teacher is surest to sort to each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from webssl_toolbox.data.rng import sample_rng
from webssl_toolbox.encoder import EncodedSplit, Encoder, MissingPart
from webssl_toolbox.registry import DATASETS
from webssl_toolbox.spaces import Space

from ._common import Config, check_positive
from ._grid import Cell, draw_grid, images_of

BATCH = 256  # images whose logits are held at a time


class PrototypeNeighbours:
    """Draws prototypes, each with the images to which it is most probable.

    As in DINO, logits are centred before the softmax: here by their mean over the split. A
    prototype is in use where it is the most probable one of some image. In a fixed random order,
    the first of those in use are shown: what stays in use stays in the picture.

    Args:
        data: dataset config of the images.
        space: name of the prototypes in ``model.spaces``; they are given the pooled output of
            ``test_tower``.
        temperature: of the softmax.
        count: prototypes shown.
        k: images of each.

    Raises:
        ValueError: an unknown dataset or argument in ``data``, or a number that is not positive.
    """

    def __init__(
        self,
        data: Config,
        space: str = "proto_ema",
        temperature: float = 0.04,
        count: int = 8,
        k: int = 6,
    ) -> None:
        check_positive(temperature=temperature, count=count, k=k)
        DATASETS.check(data, "data")
        self.data, self.space, self.temperature = data, space, temperature
        self.count, self.k = count, k

    def run(self, model: Encoder) -> dict[str, np.ndarray]:
        """Returns ``grid``: a row for each prototype.

        Raises:
            MissingPart: the model has no such space.
        """
        split = model.encode_dataset(self.data)
        total = len(split.features)
        with model.evaluating():
            centre = torch.stack([x.sum(0) for x in self._logits(model, split)]).sum(0) / total
            first = torch.cat([(x - centre).argmax(1) for x in self._logits(model, split)])
            owned = first.bincount(minlength=len(centre)).tolist()
            order = sample_rng(0, 0, 0, "prototypes").permutation(len(owned)).tolist()
            chosen = [i for i in order if owned[i]][: self.count]
            logits = (x - centre for x in self._logits(model, split))
            chances = torch.cat([(x / self.temperature).softmax(1)[:, chosen] for x in logits])
        best = chances.topk(min(self.k, total), dim=0)

        images = images_of(self.data, split, best.indices.flatten().tolist())
        called = [*split.classes, ""]  # -1, no label, picks the last
        rows = []
        for i, found, sure in zip(chosen, best.indices.T.tolist(), best.values.T, strict=True):
            note = f"the first for {owned[i]:,} of {total:,}"
            row = [Cell(None, f"prototype {i:,}", note=note)]
            for j, chance in zip(found, sure.tolist(), strict=True):
                row.append(Cell(images[j], f"{chance:.1%} {called[split.labels[j]]}"))
            rows.append(row)
        used = sum(map(bool, owned))
        heads = [f"{used:,} of {len(owned):,} in use", *map(str, range(1, len(rows[0])))]
        return {"grid": draw_grid(heads, rows)}

    def _logits(self, model: Encoder, split: EncodedSplit) -> Iterator[Tensor]:
        """Yields the logits of some images after the other, float32 ``[B, prototypes]``."""
        spaces = model.model.spaces
        if self.space not in spaces:
            raise MissingPart(
                f"this model has no space {self.space!r}; it has {', '.join(spaces) or 'none'}"
            )
        space: Space = spaces[self.space]  # type: ignore[assignment]
        device = next(space.parameters()).device
        for features in split.features.split(BATCH):
            yield space(features.to(device), model.image).float().cpu()
