"""k nearest neighbours on frozen features: what they hold, without training a head."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F

from webssl_toolbox.encoder import Encoder
from webssl_toolbox.registry import DATASETS

from ._common import (
    Config,
    check_positive,
    check_splits,
    class_ids,
    knn_classify,
    labelled,
    percent,
)


class KNN:
    """Weighted nearest neighbours on the image tower's pooled output (DINO, Caron et al. 2021).

    Labels of the two sets are compared by class name. Samples without a label are left out of both.

    Args:
        train: dataset config of the neighbours.
        splits: name to dataset config of test sets; None removes an inherited one.
        k: neighbours that vote; 10 or 20 are usual.
        temperature: of the votes, ``exp(similarity / temperature)``.
        chunk: test samples compared at a time.

    Raises:
        ValueError: an unknown dataset or argument in ``train`` or ``splits``, or a number that is
            not positive.
    """

    def __init__(
        self,
        train: Config,
        splits: Mapping[str, Config | None],
        k: int = 10,
        temperature: float = 0.07,
        chunk: int = 1024,
    ) -> None:
        check_positive(k=k, temperature=temperature, chunk=chunk)
        DATASETS.check(train, "train")
        self.train, self.splits = train, check_splits(splits)
        self.k, self.temperature, self.chunk = k, temperature, chunk

    def run(self, model: Encoder) -> dict[str, float]:
        """Returns ``<split>/top1`` in percent."""
        train = model.encode_dataset(self.train)
        rows = labelled(train.labels, "train")
        bank = F.normalize(train.features[rows], dim=1)
        vocabulary: dict[str, int] = {}
        bank_ids = class_ids(train.labels[rows], train.classes, vocabulary)
        metrics: dict[str, float] = {}
        for name, cfg in self.splits.items():
            split = model.encode_dataset(cfg)
            rows = labelled(split.labels, f"splits[{name!r}]")
            ids = class_ids(split.labels[rows], split.classes, vocabulary)
            queries = F.normalize(split.features[rows], dim=1)
            found = knn_classify(queries, bank, bank_ids, self.k, self.temperature, self.chunk)
            metrics[f"{name}/top1"] = percent(found == ids)
        return metrics
