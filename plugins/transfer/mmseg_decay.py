"""Layer-wise learning rates for a tower in mmsegmentation."""

from __future__ import annotations

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TowerLayerDecay(DefaultOptimWrapperConstructor):
    """Each layer of the backbone learns at ``decay_rate`` times the rate of the next.

    Neck and heads learn at the whole rate. Biases, norms, tokens and positions do not decay, as in
    BEiT and MAE. For ``constructor`` of ``optim_wrapper``, beside
    ``paramwise_cfg=dict(decay_rate=0.65)``.
    """

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:
        """Appends one group for each layer, and for decayed parameters and others in it."""
        rate = self.paramwise_cfg["decay_rate"]
        groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
        backbone: Any = module.backbone
        head = backbone.tower.num_layers
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            layer = head
            if name.startswith("backbone."):
                layer, _ = backbone.get_layer_depth(name, "backbone.")
            token = name.endswith(("pos_embed", "_token"))
            decays = parameter.dim() > 1 and not token
            groups.setdefault((layer, decays), []).append(parameter)
        for (layer, decays), parameters in groups.items():
            params.append(
                {
                    "params": parameters,
                    "lr": self.base_lr * rate ** (head - layer),
                    "weight_decay": self.base_wd if decays else 0.0,
                }
            )
