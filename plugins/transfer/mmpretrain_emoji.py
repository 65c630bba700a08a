"""The embedded corpus as a data set of mmpretrain: to which of ten groups does a drawing belong?"""

from __future__ import annotations

from typing import Any

import numpy as np
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from webssl_toolbox.registry import DATASETS as OURS
from webssl_toolbox.registry import VIEWS


@DATASETS.register_module()
class EmojiClassification(BaseDataset):
    """Drawings on white, RGB, labelled by group: like CIFAR's, they need no file and no loading.

    Args:
        split: ``train-drawings``, three designers, or one that they do not hold: ``noto-v1``,
            ``fluent-flat`` ... as of the data set ``Emoji`` of this toolbox.
        size: side of the drawings in pixels.
        target: ``group`` (10) or ``subgroup`` (100).
        **kwargs: of mmpretrain's ``BaseDataset``: ``pipeline``, ``indices`` ...
    """

    def __init__(
        self, split: str = "train-drawings", size: int = 72, target: str = "group", **kwargs: Any
    ) -> None:
        if split == "train":
            raise ValueError("split='train' draws a designer each time; take 'train-drawings'")
        corpus = {"type": "Emoji", "split": split, "size": size, "target": target}
        self.corpus: Any = OURS.create(corpus, "dataset")
        self.corpus.prepare()
        self.ground = VIEWS.create({"type": "Background", "white": 1.0, "jitter": 0}, "view")
        super().__init__(ann_file="", classes=list(self.corpus.classes), **kwargs)

    def load_data_list(self) -> list[dict[str, int]]:
        """Returns label and place in the corpus of each drawing that has a group."""
        labels = [self._load(i).label for i in range(len(self.corpus))]
        return [{"gt_label": y, "place": i} for i, y in enumerate(labels) if y >= 0]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Adds ``img``, uint8 ``[size, size, 3]``."""
        info: dict[str, Any] = super().get_data_info(idx)
        sample = self._load(info["place"])
        info["img"] = self.ground(sample.image, sample, np.random.default_rng(0))
        return info

    def _load(self, index: int) -> Any:
        return self.corpus.load(index, np.random.default_rng(0))
