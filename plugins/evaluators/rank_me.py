"""The effective rank of features: how many directions they use."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from webssl_toolbox.encoder import Encoder

from ._common import Config, check_splits


class RankMe:
    """Measures dimensional collapse without labels (Garrido et al. 2023, arXiv 2210.02885).

    A rank well below the width says that most directions of the image tower's pooled output carry
    nothing; so it is given as a share of the width. It is bounded by the number of samples, too:
    compare equal splits.

    Args:
        splits: name to dataset config; None removes an inherited one.

    Raises:
        ValueError: an unknown dataset or argument in ``splits``.
    """

    def __init__(self, splits: Mapping[str, Config | None]) -> None:
        self.splits = check_splits(splits)

    def run(self, model: Encoder) -> dict[str, float]:
        """Returns ``<split>/rank``, in percent of the width."""
        metrics: dict[str, float] = {}
        for name, cfg in self.splits.items():
            features = model.encode_dataset(cfg).features
            metrics[f"{name}/rank"] = 100 * effective_rank(features) / features.shape[1]
        return metrics


def effective_rank(features: Tensor) -> float:
    """Returns the exponential of the entropy of the singular values, over their sum, of [N, D]."""
    values = torch.linalg.svdvals(features.double())
    return torch.special.entr(values / values.sum()).sum().exp().item()
