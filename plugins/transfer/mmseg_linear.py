"""The linear head of DINOv2's segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor

from webssl_toolbox.norm import build_norm


@MODELS.register_module()
class LinearHead(BaseDecodeHead):
    """A batch norm over all ranks, and a linear map of each position (arXiv 2304.07193, 7.4).

    Maps of several layers, ``input_transform='resize_concat'``, are joined along their channels.

    Args:
        in_channels: of the map, or of each.
        **kwargs: of mmsegmentation's ``BaseDecodeHead``: ``num_classes``, ``in_index`` ...
    """

    def __init__(self, in_channels: int | Sequence[int], **kwargs: Any) -> None:
        total = in_channels if isinstance(in_channels, int) else sum(in_channels)
        super().__init__(in_channels, total, **kwargs)
        self.norm = build_norm("SyncBN", total)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps ``[B, C, H, W]`` to logits ``[B, num_classes, H, W]``."""
        return self.cls_seg(self.norm(self._transform_inputs(inputs)))
