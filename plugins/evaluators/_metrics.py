"""What published suites report, as functions of class scores ``[N, C]`` and labels ``[N]``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ._common import percent


def top1(scores: Tensor, labels: Tensor) -> float:
    """Returns the share of rows whose own class scores highest."""
    return percent(scores.argmax(1) == labels)


def top1_top5(scores: Tensor, labels: Tensor) -> float:
    """Returns the mean of top-1 and top-5 accuracy, the measure of Kinetics."""
    ranked = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    return (percent(ranked[:, 0]) + percent(ranked.any(1))) / 2


def mean_per_class(scores: Tensor, labels: Tensor) -> float:
    """Returns the mean over classes that occur of the accuracy on their rows."""
    hits = scores.argmax(1) == labels
    shares = [hits[labels == label].double().mean() for label in labels.unique()]
    return 100 * torch.stack(shares).mean().item()


def roc_auc(scores: Tensor, labels: Tensor) -> float:
    """Returns the area under the ROC curve of the second class against the first.

    That is the chance that a row of the second class scores higher than one of the first, where a
    draw counts half (Mann and Whitney 1947).

    Raises:
        ValueError: there are not two classes, each with a row.
    """
    if scores.shape[1] != 2 or len(labels.unique()) != 2:
        raise ValueError("roc_auc compares two classes that both occur; take another metric")
    margin = scores[:, 1].double() - scores[:, 0].double()
    _, value_of, count = margin.unique(return_inverse=True, return_counts=True)
    ranks = (count.cumsum(0) - (count - 1) / 2).double()[value_of]  # equal values share theirs
    positive = int((labels == 1).sum())
    beaten = ranks[labels == 1].sum().item() - positive * (positive + 1) / 2
    return 100 * beaten / (positive * (len(labels) - positive))


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    metric.__name__: metric for metric in (top1, top1_top5, mean_per_class, roc_auc)
}
