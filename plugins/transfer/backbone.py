"""Any image tower as a backbone of OpenMMLab's libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from webssl_toolbox.objective import Need
from webssl_toolbox.registry import MODELS, SCOPE
from webssl_toolbox.towers import Part, Segment

from ._maps import center_pad, freeze_unused
from ._weights import Pretrained

NEED = Need("image", "image")


class Backbone(BaseModule):
    """A tower for configs of mmpretrain and mmsegmentation: ``type='webssl_toolbox.Backbone'``.

    Args:
        tower: as in ``model.towers`` of this toolbox.
        out_indices: blocks or stages whose maps ``[B, C, H, W]`` it gives, for necks and heads of
            segmentation; None for the pooled features ``[B, width]``, for those of classification.
            Images that patches do not divide are padded with zeros on all sides, as in DINOv2.
        class_token: whether a map has the class token of its block behind the channels of each
            position, as DINOv2's heads of depth read it.
        last_norm: whether maps are those behind the tower's last norm; of a ViT.
        frozen: whether the tower keeps its weights, its evaluation mode and its statistics.
        pool_norm: whether patches are averaged before the tower's last norm, which starts anew, as
            MAE is fine-tuned (arXiv 2111.06377, appendix A.1); of a ViT.
        init_cfg: ``dict(type='Pretrained', checkpoint=WORK_DIR)``: this toolbox's, which reads no
            pickle; None for the weights that the tower is built with.

    Raises:
        ValueError: the tower cannot be built, or has no maps.
    """

    def __init__(
        self,
        tower: Mapping[str, Any],
        out_indices: Sequence[int] | None = None,
        class_token: bool = False,
        last_norm: bool = True,
        frozen: bool = False,
        pool_norm: bool = False,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.tower: Any = MODELS.create(tower, "backbone.tower")
        self.tower.plan(frozenset({NEED}))
        self.tower_config = dict(tower)
        self.out_indices, self.class_token, self.frozen = out_indices, class_token, frozen
        self.pool_norm: nn.Module | None = None
        if pool_norm:
            self.pool_norm, self.tower.norm = self.tower.norm, nn.Identity()
        if not last_norm:
            self.tower.norm = nn.Identity()
        if frozen:
            self.tower.requires_grad_(False)
        else:
            side = self.tower.input_size
            freeze_unused(self, torch.empty(2, 3, side, side, device="meta"))

    def init_weights(self) -> None:
        """Loads what ``init_cfg`` names; the tower has initialised itself when it was built."""
        if self.init_cfg:
            start = dict(self.init_cfg)
            if start.pop("type") not in ("Pretrained", f"{SCOPE}.Pretrained"):
                raise ValueError(f"a Backbone starts from type='Pretrained', not {self.init_cfg}")
            Pretrained(**start)(self.tower, self.tower_config)
        self._is_init = True

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        if self.frozen:
            self.tower.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns maps or pooled features of images ``[B, 3, H, W]``."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self.out_indices is not None:
                return self._maps(images, self.out_indices)
            (encoding,) = self.tower([Segment(NEED, (Part("image", images),))])
            if self.pool_norm is not None:
                return (self.pool_norm(encoding.tokens.mean(1)),)
            return (encoding.pooled,)

    def _maps(self, images: Tensor, indices: Sequence[int]) -> tuple[Tensor, ...]:
        images = center_pad(images, getattr(self.tower, "patch_size", None) or 1)
        layers = self.tower.layers(images, indices)
        if not self.class_token:
            return tuple(layer.map for layer in layers)
        return tuple(
            torch.cat([layer.map, layer.pooled[:, :, None, None].expand_as(layer.map)], dim=1)
            for layer in layers
        )

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Returns the layer of a parameter, and one more than the last, for layer-wise decay.

        The head of the network is a layer above the last block, as in mmpretrain's own backbones.
        """
        last = self.tower.num_layers
        if not last:
            raise ValueError(f"{type(self.tower).__name__} does not count its layers: no decay")
        name = param_name.removeprefix(f"{prefix}tower.")
        return (last if name == param_name else self.tower.layer_of(name)), last + 1
