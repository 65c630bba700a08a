"""Any backbone of mmpretrain as an image tower."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from webssl_toolbox.registry import check_arguments, nearest
from webssl_toolbox.towers import Layer

from ._foreign import ImageAdapter, building, library, load_weights, read_weights, to_tokens
from ._layers import grid_of, last_norm, layer_of_map, layer_of_tokens, resolve

BACKBONES = "mmpretrain.models.backbones."
LAYERS = ("torch.nn.", "mmcv.cnn.", "mmengine.utils.dl_utils.", "mmpretrain.models.utils.")
# mmengine would import what a scope names, and load or download what the other two name.
UNSAFE = ("_scope_", "init_cfg", "pretrained")


class MMPretrain(ImageAdapter):
    """An mmpretrain backbone: ``dict(type='MMPretrain', backbone=dict(type='ResNet', depth=50))``.

    ``Encoding.tokens`` is the last feature map, or the patches of the last sequence;
    ``Encoding.pooled`` their mean, or the class token where there is one. Weights are initialised
    as mmpretrain does.

    Args:
        backbone: what an mmpretrain config writes there. Its type, and the types of layers in it,
            are registered names; nothing in it is imported by its path.
        input_size: side of the images in pixels.
        pretrained: a local safetensors file of the backbone's weights.

    Raises:
        ValueError: mmpretrain is not installed, has no such backbone, or cannot build it so.
        FileNotFoundError: there are no such weights.
    """

    def __init__(
        self, backbone: Mapping[str, Any], input_size: int = 224, pretrained: str | None = None
    ) -> None:
        super().__init__()
        library("mmpretrain.models", "mmpretrain")  # fills the registry
        models = library("mmpretrain.registry", "mmpretrain").MODELS
        known = {
            key: cls
            for key, cls in models.module_dict.items()
            if _defined_in(cls, BACKBONES) and key != "TIMMBackbone"
        }
        name = str(backbone.get("type"))
        if name not in known:
            raise ValueError(
                f"backbone.type {name!r} is no backbone of mmpretrain{nearest(name, known)}"
            )
        cls = known[name]
        check_arguments(cls, backbone, "backbone")
        arguments = {key: value for key, value in backbone.items() if key != "type"}
        _check_layers(arguments, models, "backbone")
        if arguments.get("norm_eval"):
            raise ValueError(
                "backbone.norm_eval has no effect on norms over all ranks: leave it out"
            )
        self.sequence = "raw" in getattr(cls, "OUT_TYPES", ())
        ours: dict[str, Any] = {"img_size": input_size, "gap_before_final_norm": False}
        ours |= {"out_type": "raw"} if self.sequence else {}
        for key in ours.keys() & _accepted(cls):
            if key in arguments:
                raise ValueError(f"backbone.{key} is for the tower to say: leave it out")
            arguments[key] = ours[key]
        # It reads what it draws, which tensors of the meta device do not allow.
        device = torch.get_default_device()
        with building(f"mmpretrain's {name}"), torch.device("cpu"):
            self.model = cls(**arguments)
            self.model._dump_init_info = lambda: None  # a paragraph for each parameter
            self.model.init_weights()
            del self.model._dump_init_info
        self.model.to(device)
        if pretrained:
            load_weights(self.model, read_weights(pretrained), pretrained)
        self.prefix = getattr(self.model, "num_extra_tokens", 0)
        self.input_size = input_size
        self.adopt(f"mmpretrain's {name}")

    def encode(
        self, images: Tensor, keep: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        features = self.model(images)
        features = features[-1] if isinstance(features, tuple | list) else features
        if features.dim() != 4 and not self.sequence:
            raise ValueError("its last output is not a feature map")
        tokens = to_tokens(features, self.prefix)
        return features[:, 0] if self.sequence and self.prefix else tokens.mean(1), tokens

    def layers(self, images: Tensor, indices: Sequence[int]) -> list[Layer]:
        model = self.model
        count = getattr(model, "num_stages", None) or getattr(model, "num_layers", None)
        if not isinstance(count, int):
            return super().layers(images, indices)
        chosen = resolve(indices, count)
        unique = sorted({*chosen, count - 1})
        usual, model.out_indices = model.out_indices, unique
        try:
            with last_norm(model) as finish:
                outputs = finish(model(images))
        except AttributeError as error:  # some have a norm for each output that was named
            raise ValueError(
                f"mmpretrain's {type(model).__name__} gives the layers that it was built for; "
                f"write out_indices={tuple(unique)} in backbone"
            ) from error
        finally:
            model.out_indices = usual
        found = {
            i: layer_of_tokens(
                each, self.prefix, self.prefix > 0, grid_of(each.shape[1] - self.prefix, images)
            )
            if self.sequence
            else layer_of_map(each)
            for i, each in zip(unique, outputs, strict=True)
        }
        return [found[i] for i in chosen]


def _accepted(cls: type) -> set[str]:
    """Returns the arguments of a class, with those that it hands on to its base."""
    own = inspect.signature(cls).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
        return set(own)
    return set(own).union(*(_accepted(base) for base in cls.__bases__ if base is not object))


def _defined_in(registered: Any, modules: str | tuple[str, ...]) -> bool:
    """Says whether it is a class of these modules.

    mmpretrain also registers functions there, which load a model of transformers and its code.
    """
    return isinstance(registered, type) and registered.__module__.startswith(modules)


def _check_layers(value: Any, models: Any, where: str) -> None:
    """Refuses what mmengine would import, load or call on behalf of a config.

    Raises:
        ValueError: names where it stands.
    """
    if isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            _check_layers(entry, models, f"{where}[{i}]")
    if not isinstance(value, Mapping):
        return
    for key, entry in value.items():
        if key in UNSAFE:
            raise ValueError(
                f"{where}.{key} could load foreign code or weights, so it is refused; the tower "
                "itself takes pretrained, a local safetensors file"
            )
        if key == "type":
            entry = str(entry)
            registered = models.module_dict.get(entry) or models.parent.module_dict.get(entry)
            if not _defined_in(registered, LAYERS):
                raise ValueError(f"{where}.type {entry!r} is no layer that mmpretrain registers")
        _check_layers(entry, models, f"{where}.{key}")
