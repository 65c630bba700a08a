"""What projection heads of image views share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from webssl_toolbox.norm import SyncBatchNorm


def by_view(layers: nn.Sequential, x: Tensor) -> list[Tensor]:
    """Runs two views, joined in ``x`` ``[2 B, C]``, and returns both ``[B, C']``.

    Each view has its own batch statistics, yet every linear map reads its weights once for both,
    and writes their gradient once: at usual batch sizes, that is most of what such a head costs.
    """
    for layer in layers:
        if isinstance(layer, SyncBatchNorm | nn.BatchNorm1d):
            x = torch.cat([layer(view) for view in x.chunk(2)])
        else:
            x = layer(x)
    return list(x.chunk(2))
