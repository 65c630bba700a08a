"""Retrieval of captions by images and of images by captions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from webssl_toolbox.encoder import Encoder

from ._common import Config, check_positive, check_splits, joint, nearest, percent

RANKS = (1, 5, 10)


class Retrieval:
    """Recall at 1, 5 and 10, both ways (CLIP, Radford et al. 2021, table 13).

    Each distinct caption is one candidate and one query: an image finds its text where the caption
    is equal, and a text finds its image where any image of that caption is among the first.
    Images without a caption are left out.

    Args:
        splits: name to dataset config; None removes an inherited one.
        chunk: queries compared at a time.

    Raises:
        ValueError: an unknown dataset or argument in ``splits``, or ``chunk`` below 1.
    """

    def __init__(self, splits: Mapping[str, Config | None], chunk: int = 1024) -> None:
        check_positive(chunk=chunk)
        self.splits = check_splits(splits)
        self.chunk = chunk

    def run(self, model: Encoder) -> dict[str, float]:
        """Returns ``<split>/i2t_r1`` to ``i2t_r10`` and ``t2i_r1`` to ``t2i_r10`` in percent.

        Raises:
            MissingPart: the model has no text tower or no joint space.
            ValueError: a dataset without captions.
        """
        metrics: dict[str, float] = {}
        for name, cfg in self.splits.items():
            split = model.encode_dataset(cfg)
            rows = [i for i, caption in enumerate(split.captions) if caption]
            if not rows:
                raise ValueError(f"splits[{name!r}]: no sample has a caption; leave this set out")
            captions = [split.captions[i] for i in rows]
            texts = {text: i for i, text in enumerate(dict.fromkeys(captions))}
            recalls = recall(
                joint(split)[rows],
                model.encode_text(list(texts)),
                torch.tensor([texts[caption] for caption in captions]),
                self.chunk,
            )
            metrics |= {f"{name}/{metric}": value for metric, value in recalls.items()}
        return metrics


def recall(images: Tensor, texts: Tensor, owner: Tensor, chunk: int = 1024) -> dict[str, float]:
    """Computes recall both ways.

    Args:
        images: unit vectors ``[N, dim]``.
        texts: unit vectors of distinct captions, ``[T, dim]``.
        owner: int64 ``[N]``, the text of each image.
        chunk: queries compared at a time.

    Returns:
        ``i2t_r1 ...`` over images and ``t2i_r1 ...`` over texts, in percent.
    """
    # Ranks come from a sort, not from counting what scores higher: equal embeddings (a collapsed
    # model) would tie for the first rank.
    _, found = nearest(images, texts, max(RANKS), chunk)
    i2t = found == owner[:, None]
    _, found = nearest(texts, images, max(RANKS), chunk)
    t2i = owner[found] == torch.arange(len(texts))[:, None]
    return {f"i2t_r{k}": percent(i2t[:, :k].any(1)) for k in RANKS} | {
        f"t2i_r{k}": percent(t2i[:, :k].any(1)) for k in RANKS
    }
