"""A linear read-out with a closed form, and how well classes of patches are found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class ReadOut(NamedTuple):
    """A linear classifier: ``weight [D, C]`` and ``bias [C]``, float64."""

    weight: Tensor
    bias: Tensor

    def __call__(self, tokens: Tensor) -> Tensor:
        """Returns the classes of ``[..., D]``."""
        return (tokens.double() @ self.weight + self.bias).argmax(-1)


def fit(batches: Iterable[Tensor], labels: Sequence[Tensor], ridge: float) -> ReadOut:
    """Fits ridge regression of one-hot classes on standardised tokens; each class weighs the same.

    One pass gathers the moments, in O(D^2) memory however many tokens there are.

    Args:
        batches: tokens ``[B, P, D]``.
        labels: for each batch the classes, int64 ``[B, P]``.
        ridge: penalty, over the variance of a channel.
    """
    count = torch.cat([each.flatten() for each in labels]).bincount()
    share = 1 / (count * (count > 0).sum()).double()  # of a token, by its class
    mean: Tensor | float = 0.0
    second: Tensor | float = 0.0
    joint: Tensor | float = 0.0
    for tokens, classes in zip(batches, labels, strict=True):
        x, y = tokens.flatten(0, 1).double(), classes.flatten()
        weighted = share[y][:, None] * x
        mean = mean + weighted.sum(0)
        second = second + x.T @ weighted
        joint = joint + weighted.T @ F.one_hot(y, len(count)).double()
    assert isinstance(mean, Tensor)
    prior = (share * count).nan_to_num(0)
    covariance = second - mean.outer(mean)
    scale = covariance.diagonal().clamp_min(1e-12).sqrt()  # a channel may be constant
    correlation = covariance / scale.outer(scale)
    penalty = ridge * torch.eye(len(mean), dtype=torch.float64)
    target = (joint - mean.outer(prior)) / scale[:, None]
    weight = torch.linalg.solve(correlation + penalty, target) / scale[:, None]
    return ReadOut(weight, prior - mean @ weight)


def mean_iou(guessed: Tensor, labels: Tensor) -> float:
    """Returns the mean over classes of intersection over union, in percent.

    Args:
        guessed: classes of patches; 0 is the ground.
        labels: the true ones; the mean is over those that occur, without the ground.
    """
    shares = []
    for label in labels[labels > 0].unique():
        mine, true = guessed == label, labels == label
        shares.append((mine & true).sum() / (mine | true).sum())
    return 100 * torch.stack(shares).mean().item()
