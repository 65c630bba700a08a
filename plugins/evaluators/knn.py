"""k nearest neighbours on frozen features: what they hold, without training a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from webssl_toolbox import dist
from webssl_toolbox.encoder import Encoder
from webssl_toolbox.registry import DATASETS

from ._common import Config, check_positive, check_splits, knn_classify, percent
from ._labelled import SEED, Labelled, read_labelled


class KNN:
    """Weighted nearest neighbours on the image tower's pooled output (DINO, Caron et al. 2021).

    Labels of the two sets are compared by class name. Samples without a label are left out of both.
    Ranks share the test samples.

    Args:
        train: dataset config of the neighbours.
        splits: name to dataset config of test sets; None removes an inherited one.
        k: neighbours that vote; 10 or 20 are usual.
        ks: further numbers of neighbours, which cost no further search.
        shots: few-shot variants: for each number, so many neighbours of a class are drawn.
        tries: times that they are drawn; the accuracy is the mean.
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
        ks: Sequence[int] = (),
        shots: Sequence[int] = (),
        tries: int = 5,
        temperature: float = 0.07,
        chunk: int = 1024,
    ) -> None:
        check_positive(k=k, tries=tries, temperature=temperature, chunk=chunk)
        for each in ks:
            check_positive(ks=each)
        for each in shots:
            check_positive(shots=each)
        DATASETS.check(train, "train")
        self.train, self.splits = train, check_splits(splits)
        self.ks = [k, *(each for each in ks if each != k)]
        self.shots, self.tries = shots, tries
        self.temperature, self.chunk = temperature, chunk

    def run(self, model: Encoder) -> dict[str, float]:
        """Returns ``<split>/top1`` in percent; ``top1_k20`` of others, ``top1_5shot`` of shots."""
        names: dict[str, int] = {}
        train = _unit(read_labelled(model, self.train, "train", names), model.device)
        metrics: dict[str, float] = {}
        for name, cfg in self.splits.items():
            test = read_labelled(model, cfg, f"splits[{name!r}]", names)
            test = _unit(test, model.device)
            metrics |= {f"{name}/top1{k}": v for k, v in self._accuracy(train, test, "").items()}
            for shots in self.shots:
                draws = [train.at(draw(train.labels, shots, SEED + i)) for i in range(self.tries)]
                tries = [self._accuracy(each, test, f"_{shots}shot") for each in draws]
                for key in tries[0]:
                    metrics[f"{name}/top1{key}"] = sum(each[key] for each in tries) / self.tries
        return metrics

    def _accuracy(self, bank: Labelled, test: Labelled, suffix: str) -> dict[str, float]:
        share = ceil(len(test.labels) / dist.world_size())
        mine = test.features[dist.rank() * share :][:share]
        found = knn_classify(
            mine, bank.features, bank.labels, self.ks, self.temperature, self.chunk
        )
        # Ranks gather equal shapes: the last share may be short.
        found = dist.gather(F.pad(found, (0, share - len(mine))).T)[: len(test.labels)]
        return {
            suffix + (f"_k{k}" if i else ""): percent(found[:, i] == test.labels)
            for i, k in enumerate(self.ks)
        }


def draw(labels: Tensor, shots: int, seed: int) -> Tensor:
    """Draws rows of each class: all of those that have no more.

    Args:
        labels: int64 ``[N]``.
        shots: of each class.
        seed: of the draw.

    Returns:
        int64 rows, ``shots`` of a class at most.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order.to(labels.device)
    order = order[labels[order].argsort(stable=True)]  # class by class, each in a random order
    count = labels.bincount()
    first = (count.cumsum(0) - count)[labels[order]]
    return order[torch.arange(len(order), device=labels.device) - first < shots]


def _unit(rows: Labelled, device: torch.device) -> Labelled:
    return Labelled(F.normalize(rows.features.to(device), dim=1), rows.labels.to(device))
