"""Retrieval of captions by images and of images by captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from webssl_toolbox.data.sample import MissingData
from webssl_toolbox.encoder import EncodedSplit, Encoder
from webssl_toolbox.registry import DATASETS

from ._common import Config, check_positive, check_splits, joint, missing, nearest, percent

RANKS = (1, 5, 10)
NAMES = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in RANKS]


class Retrieval:
    """Recall at 1, 5 and 10, both ways (CLIP, Radford et al. 2021, table 13).

    Each distinct caption is one candidate and one query: an image finds its text where a caption of
    its own is among the first, and a text its image where any image of that caption is. Images
    without a caption are left out. A published data set that is not there is named.

    Args:
        splits: name to dataset config; None removes an inherited one.
        chunk: queries compared at a time.
        all_captions: take all captions of an image, as papers do on COCO and Flickr30k; by default
            the first.

    Raises:
        ValueError: an unknown dataset or argument in ``splits``, or ``chunk`` below 1.
    """

    def __init__(
        self, splits: Mapping[str, Config | None], chunk: int = 1024, all_captions: bool = False
    ) -> None:
        check_positive(chunk=chunk)
        self.splits = check_splits(splits)
        self.chunk, self.all_captions = chunk, all_captions

    def run(self, model: Encoder) -> dict[str, float | None]:
        """Returns ``<split>/i2t_r1`` to ``i2t_r10`` and ``t2i_r1`` to ``t2i_r10`` in percent.

        Raises:
            MissingPart: the model has no text tower or no joint space.
            ValueError: a dataset without captions.
        """
        metrics: dict[str, float | None] = {}
        for name, cfg in self.splits.items():
            try:
                split = model.encode_dataset(cfg)
            except MissingData as error:
                metrics |= missing(error, [f"{name}/{metric}" for metric in NAMES])
                continue
            captions = self._captions(split, cfg)
            rows = [i for i, texts in enumerate(captions) if texts]
            if not rows:
                raise ValueError(f"splits[{name!r}]: no sample has a caption; leave this set out")
            captions = [captions[i] for i in rows]
            known = dict.fromkeys(text for texts in captions for text in texts)
            number = {text: i for i, text in enumerate(known)}
            owned = pad_sequence(
                [torch.tensor([number[text] for text in texts]) for texts in captions],
                batch_first=True,
                padding_value=-1,
            )
            images, texts = joint(split)[rows], model.encode_text(list(number))
            found = recall(images, texts, owned, self.chunk)
            metrics |= {f"{name}/{metric}": value for metric, value in found.items()}
        return metrics

    def _captions(self, split: EncodedSplit, cfg: Config) -> list[Sequence[str]]:
        """Returns the captions of each row."""
        if not self.all_captions:
            return [[caption] if caption else [] for caption in split.captions]
        dataset = DATASETS.create(cfg, "splits")
        if not hasattr(dataset, "captions_of"):
            raise ValueError(f"{cfg['type']} has one caption; leave all_captions out")
        return [dataset.captions_of(i) for i in split.indices]


def recall(images: Tensor, texts: Tensor, owned: Tensor, chunk: int = 1024) -> dict[str, float]:
    """Computes recall both ways.

    Args:
        images: unit vectors ``[N, dim]``.
        texts: unit vectors of distinct captions, ``[T, dim]``.
        owned: int64 ``[N, most]``, the texts of each image, -1 where it has fewer.
        chunk: queries compared at a time.

    Returns:
        ``i2t_r1 ...`` over images and ``t2i_r1 ...`` over texts, in percent.
    """
    # Ranks come from a sort, not from counting what scores higher: equal embeddings (a collapsed
    # model) would tie for the first rank.
    _, found = nearest(images, texts, max(RANKS), chunk)
    i2t = (found[:, :, None] == owned[:, None]).any(2)
    _, found = nearest(texts, images, max(RANKS), chunk)
    t2i = (owned[found] == torch.arange(len(texts))[:, None, None]).any(2)
    return {f"i2t_r{k}": percent(i2t[:, :k].any(1)) for k in RANKS} | {
        f"t2i_r{k}": percent(t2i[:, :k].any(1)) for k in RANKS
    }
