"""Multinomial logistic regression, to its minimum: a probe without step size or seed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from webssl_toolbox import dist

from ._common import percent
from ._labelled import Labelled
from ._readout import ReadOut

CHUNK = 16384  # rows whose probabilities are in memory at a time
MOST_STEPS = 1000  # of L-BFGS


class Fit(NamedTuple):
    """A fitted classifier.

    Attributes:
        readout: over the columns of the features.
        gradient: largest entry of the gradient where the search ended: 0 at the minimum.
    """

    readout: ReadOut
    gradient: float


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    classes: int,
    inverse_penalty: float,
    start: ReadOut | None = None,
    tolerance: float = 1e-7,
) -> Fit:
    """Minimises the cross-entropy and an L2 penalty on the weights, by L-BFGS on all rows.

    The minimum is that of ``C * sum(cross_entropy) + |weight|^2 / 2``, as in scikit-learn and
    DINOv2's ``log_regression.py``; it is unique, so what starts elsewhere ends there, too. The
    search measures each weight by the curvature that the loss has there at most (Bohning 1992): a
    few steps where the columns are uncorrelated. Ranks share the rows, and take the same steps.

    Args:
        features: float64 ``[N, D]``, the same on all ranks.
        labels: int64 ``[N]`` below ``classes``; each of these occurs.
        classes: C of the classifier.
        inverse_penalty: C of the formula.
        start: where the search begins; zeros if None.
        tolerance: of the largest entry of the gradient, for the mean over rows.
    """
    count, rank, ranks = len(features), dist.rank(), dist.world_size()
    rows = torch.split(features[rank::ranks], CHUNK)
    targets = torch.split(labels[rank::ranks], CHUNK)
    penalty = 1 / (inverse_penalty * count)
    unit = (features.square().mean(0) / 2 + penalty).rsqrt()[:, None]  # of each weight
    unit = torch.cat([unit, torch.ones_like(unit[:1])])
    scaled = features.new_zeros(features.shape[1] + 1, classes)  # the bias is in the last row
    if start is not None:
        scaled.copy_(torch.cat([start.weight, start.bias[None]]) / unit)
    scaled.requires_grad_()

    def closure() -> Tensor:
        """Sets the gradient and returns the loss, which are of all ranks."""
        weight, bias = torch.split(scaled.detach() * unit, [len(scaled) - 1, 1])
        total = features.new_zeros(scaled.numel() + 1)
        gradient = total[:-1].view_as(scaled)
        for x, y in zip(rows, targets, strict=True):
            logs = torch.addmm(bias, x, weight).log_softmax(1)
            total[-1] -= logs.gather(1, y[:, None]).sum()
            error = logs.exp_().scatter_add_(1, y[:, None], -torch.ones_like(logs[:, :1]))
            gradient[:-1].addmm_(x.T, error)
            gradient[-1] += error.sum(0)
        total = dist.all_sum(total) / count
        gradient = total[:-1].view_as(scaled)
        gradient[:-1].add_(weight, alpha=penalty)
        scaled.grad = gradient * unit
        return total[-1] + penalty / 2 * weight.square().sum()

    torch.optim.LBFGS(
        [scaled],
        max_iter=MOST_STEPS,
        max_eval=2 * MOST_STEPS,
        tolerance_grad=tolerance,
        tolerance_change=1e-15,
        history_size=20,
        line_search_fn="strong_wolfe",
    ).step(closure)
    closure()
    assert scaled.grad is not None
    weight, bias = torch.split(scaled.detach() * unit, [len(scaled) - 1, 1])
    return Fit(ReadOut(weight, bias[0]), scaled.grad.abs().max().item())


class Standardise:
    """Gives each column mean 0 and standard deviation 1 over the rows that it was made from.

    A column that is constant there gives 0. Then turns the columns into their principal axes, which
    are uncorrelated; lengths and angles, and so the penalty, stay what they are.

    Args:
        features: ``[N, D]``.
    """

    def __init__(self, features: Tensor) -> None:
        deviation, self.mean = torch.std_mean(features.double(), 0, correction=0)
        # Rounding gives a constant column a deviation too; it must not become a scale.
        constant = deviation <= 1e-7 * self.mean.abs()
        scale = torch.where(constant, 0, 1 / deviation.where(~constant, 1))
        scaled = (features.double() - self.mean) * scale
        self.turn = scale[:, None] * torch.linalg.eigh(scaled.T @ scaled).eigenvectors
        dist.broadcast([self.mean, self.turn])  # an eigenvector has two signs

    def __call__(self, features: Tensor) -> Tensor:
        """Returns float64 ``[M, D]``."""
        return (features.double() - self.mean) @ self.turn


class Problem:
    """A training set, standardised, whose classes are numbered without gaps.

    A class without a sample would have no minimum: its bias would fall for ever.

    Args:
        train: features ``[N, D]``.
        device: where to fit.
    """

    def __init__(self, train: Labelled, device: torch.device) -> None:
        self.device = device
        self.classes, self.targets = train.labels.to(device).unique(return_inverse=True)
        self.standardise = Standardise(train.features.to(device))
        self.rows = self.standardise(train.features.to(device))

    def fit(self, inverse_penalty: float, start: Fit | None = None, tolerance: float = 1e-7) -> Fit:
        """Fits at a penalty, from another fit; see ``fit_logistic``."""
        where = start.readout if start else None
        return fit_logistic(
            self.rows, self.targets, len(self.classes), inverse_penalty, where, tolerance
        )

    def accuracy(self, fit: Fit, test: Labelled) -> float:
        """Returns the share of rows whose class is found, in percent."""
        guessed = fit.readout(self.standardise(test.features.to(self.device)))
        return percent(self.classes[guessed] == test.labels.to(self.device))
