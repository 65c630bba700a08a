"""What the evaluators share: checked datasets, labels by name, and nearest neighbours."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from webssl_toolbox.data.sample import MissingData
from webssl_toolbox.encoder import EncodedSplit, MissingPart
from webssl_toolbox.registry import DATASETS

logger = logging.getLogger("webssl_toolbox")

Config = Mapping[str, Any]


def check_splits(splits: Mapping[str, Config | None]) -> dict[str, Config]:
    """Checks the config of each test set; None removes an inherited one.

    Raises:
        ValueError: an unknown dataset or argument: now, not when the first evaluation is due.
    """
    kept = {name: cfg for name, cfg in splits.items() if cfg is not None}
    for name, cfg in kept.items():
        DATASETS.check(cfg, f"splits[{name!r}]")
    return kept


def check_positive(**values: float) -> None:
    """Raises ValueError for the first of the named arguments that is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: give a number above 0")


def missing(error: MissingData, names: Iterable[str]) -> dict[str, float | None]:
    """Says what to put where, and returns None for each metric that would come of it."""
    logger.warning("%s", error)
    return dict.fromkeys(names)


def joint(split: EncodedSplit) -> Tensor:
    """Returns unit vectors ``[N, dim]``; raises MissingPart where there is no joint space."""
    if split.embeddings is None:
        raise MissingPart("this model has no joint space of images and text")
    return split.embeddings


def labelled(labels: Tensor, where: str) -> Tensor:
    """Returns the rows, int64 ``[M]``, whose label is not -1.

    Raises:
        ValueError: there are none.
    """
    rows = (labels >= 0).nonzero()[:, 0]
    if not len(rows):
        raise ValueError(f"{where}: no sample has a label; choose a dataset with classes")
    return rows


def class_ids(labels: Tensor, classes: Sequence[str], vocabulary: dict[str, int]) -> Tensor:
    """Renumbers labels by class name, so that two datasets with other lists can be compared.

    Args:
        labels: int64 ``[N]``, -1 for none.
        classes: class names in label order.
        vocabulary: name to number; new names are added.

    Returns:
        int64 ``[N]`` numbers of ``vocabulary``, -1 for none.
    """
    ids = [vocabulary.setdefault(name, len(vocabulary)) for name in classes]
    return torch.tensor([*ids, -1])[labels]  # label -1 picks the last


def nearest(queries: Tensor, bank: Tensor, k: int, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Finds the rows of ``bank`` with the largest inner product, in O(``chunk`` x N) memory.

    Args:
        queries: ``[M, D]``.
        bank: ``[N, D]``.
        k: how many; all N where there are fewer.
        chunk: queries compared at a time.

    Returns:
        Inner products and rows of ``bank``, both ``[M, min(k, N)]``, best first.
    """
    k = min(k, len(bank))
    found = [(part @ bank.T).topk(k, dim=1) for part in torch.split(queries, chunk)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def knn_classify(
    queries: Tensor,
    bank: Tensor,
    labels: Tensor,
    ks: Sequence[int],
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """Lets the k nearest vote with ``exp(similarity / temperature)`` (DINO, ``eval_knn.py``).

    Args:
        queries: unit vectors ``[M, D]``.
        bank: unit vectors ``[N, D]``.
        labels: int64 ``[N]``, of the bank.
        ks: numbers of neighbours that vote, found in one search; all N where there are fewer.
        temperature: of the votes.
        chunk: queries compared at a time.

    Returns:
        int64 ``[len(ks), M]``, the class with the most votes.
    """
    found = []
    for part in torch.split(queries, chunk):
        similarity, rows = nearest(part, bank, max(ks), chunk)
        # The softmax is exp(s / t) over a constant: the same winner, and no overflow at small t.
        weights = (similarity / temperature).softmax(dim=1)
        votes = weights.new_zeros(len(ks), len(part), int(labels.max()) + 1)
        for each, k in zip(votes, ks, strict=True):
            each.scatter_add_(1, labels[rows[:, :k]], weights[:, :k])
        found.append(votes.argmax(dim=2))
    return torch.cat(found, dim=1)


def percent(hits: Tensor) -> float:
    """Returns the share of true entries, in percent."""
    return 100 * hits.double().mean().item()
