"""Many linear classifiers side by side, trained by one product of matrices a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from webssl_toolbox import dist
from webssl_toolbox.norm import SyncBatchNorm
from webssl_toolbox.schedules import cosine

from ._labelled import SEED

MOMENTUM = 0.9
TRUST = 1e-3  # of LARS


class LinearHeads:
    """Softmax regression from each of several inputs, at each of several learning rates.

    Stochastic gradients with momentum, the rate falls to 0 by half a cosine; no weight decay. Heads
    of one input share its product with all their weights. Ranks hold equal heads and share a batch.

    Args:
        columns: of the features, which each input consists of.
        classes: C.
        rates: learning rates.
        device: where to train.
        warmup: share of all steps in which the rate grows.
        batch_norm: normalise features by the batch, without a learned scale (MAE, arXiv 2111.06377,
            A.1).
        lars: scale each step to the norm of the weights (LARS, arXiv 1708.03888); not the biases'.
    """

    def __init__(
        self,
        columns: Sequence[slice],
        classes: int,
        rates: Sequence[float],
        device: torch.device,
        warmup: float = 0.0,
        batch_norm: bool = False,
        lars: bool = False,
    ) -> None:
        self.columns, self.classes, self.lars = columns, classes, lars
        self.rates = torch.tensor(rates, device=device)
        self.warmup = warmup
        self.norm = None
        if batch_norm:
            width = max(each.stop for each in columns)
            self.norm = SyncBatchNorm(width, eps=1e-6, affine=False).to(device)
        draws = torch.Generator().manual_seed(SEED)
        self.weights = []  # [D + 1, rates, C] of each input; the bias in the last row
        for each in columns:
            shape = (each.stop - each.start + 1, len(rates), classes)
            weight = 0.01 * torch.randn(shape, generator=draws)
            weight[-1] = 0
            self.weights.append(weight.to(device))
        self.speeds = [torch.zeros_like(weight) for weight in self.weights]

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, step: int, total: int) -> None:
        """Takes a step of all heads.

        Args:
            features: ``[B, columns]``, this rank's.
            labels: int64 ``[B]``, -1 for none.
            step: which, of ``total``.
            total: number of steps.
        """
        if self.norm is not None:
            features = self.norm.train()(features)
        known = labels >= 0
        count = dist.all_sum(known.sum()).clamp(min=1)
        target = F.one_hot(labels.clamp(min=0), self.classes)[:, None]
        schedule = cosine(1.0, warmup=round(self.warmup * total))
        rates = self.rates[:, None] * schedule(step, total)
        for x, weight, speed in zip(self._inputs(features), self.weights, self.speeds, strict=True):
            error = (_logits(x, weight).softmax(2) - target) * (known / count)[:, None, None]
            gradient = dist.all_sum((x.T @ error.flatten(1)).view_as(weight))
            if self.lars:
                gradient[:-1] *= _trust(weight[:-1], gradient[:-1])
            weight.sub_(rates * speed.mul_(MOMENTUM).add_(gradient))

    @torch.no_grad()
    def guess(self, features: Tensor) -> Tensor:
        """Returns the class that each head chooses, int64 ``[B, heads]``, input by input."""
        if self.norm is not None:
            features = self.norm.eval()(features)
        pairs = zip(self._inputs(features), self.weights, strict=True)
        return torch.cat([_logits(x, weight).argmax(2) for x, weight in pairs], dim=1)

    def state(self) -> dict[str, Tensor]:
        """Returns what a step changes."""
        named = {f"weight.{i}": each for i, each in enumerate(self.weights)}
        named |= {f"speed.{i}": each for i, each in enumerate(self.speeds)}
        return named | (self.norm.state_dict(prefix="norm.") if self.norm is not None else {})

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Goes on from a state."""
        for name, tensor in self.state().items():
            tensor.copy_(stored[name])

    def _inputs(self, features: Tensor) -> list[Tensor]:
        """Returns ``[B, D + 1]`` of each input; its last column, for the bias, is 1."""
        return [F.pad(features[:, each], (0, 1), value=1.0) for each in self.columns]


def _logits(x: Tensor, weight: Tensor) -> Tensor:
    return (x @ weight.flatten(1)).unflatten(1, weight.shape[1:])


def _trust(weight: Tensor, gradient: Tensor) -> Tensor:
    """Returns LARS's factor for the step of each head, ``[rates, 1]``, of ``[D, rates, C]``."""
    own, step = (each.norm(dim=(0, 2))[:, None] for each in (weight, gradient))
    return torch.where((own > 0) & (step > 0), TRUST * own / step, 1.0)
