"""Features with class numbers, and the part of them that a choice is made on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from webssl_toolbox.encoder import Encoder
from webssl_toolbox.registry import DATASETS

from ._common import Config, class_ids, labelled

SEED = 0  # of all that a probe draws


class Labelled(NamedTuple):
    """The samples of a dataset that have a label.

    Attributes:
        features: ``[N, ...]``.
        labels: int64 ``[N]``, numbers of a vocabulary of class names.
    """

    features: Tensor
    labels: Tensor

    def at(self, rows: Tensor) -> Labelled:
        """Returns some of them."""
        return Labelled(self.features[rows], self.labels[rows])


def read_labelled(model: Encoder, cfg: Config, where: str, vocabulary: dict[str, int]) -> Labelled:
    """Encodes a dataset; features are the image tower's pooled output ``[N, width]``.

    Args:
        model: that encodes.
        cfg: dataset config.
        where: names it in errors.
        vocabulary: class name to number; new names are added.

    Raises:
        ValueError: no sample has a label.
    """
    split = model.encode_dataset(cfg)
    rows = labelled(split.labels, where)
    return Labelled(split.features[rows], class_ids(split.labels[rows], split.classes, vocabulary))


def check_validation(validation: Config | float) -> None:
    """Raises ValueError for what is neither a dataset config nor a share of the training set."""
    if isinstance(validation, Mapping):
        DATASETS.check(validation, "validation")
    elif not 0 < validation < 1:
        raise ValueError(
            f"validation={validation}: give a dataset config, or a share of train between 0 and 1"
        )


def hold_out(count: int, share: float) -> tuple[Tensor, Tensor]:
    """Splits rows by lot, the same at every call.

    Args:
        count: of the rows.
        share: of them in the second part, rounded.

    Returns:
        The rows of both parts, int64, ascending.

    Raises:
        ValueError: one of the parts would be empty.
    """
    size = round(count * share)
    if not 0 < size < count:
        raise ValueError(
            f"validation={share} of {count} samples leaves one part empty; change the share"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED))
    return order[size:].sort().values, order[:size].sort().values
