"""Any model of timm (PyTorch Image Models) as an image tower."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from webssl_toolbox.towers import Layer

from ._foreign import ImageAdapter, building, library, load_weights, read_weights, to_tokens
from ._layers import layer_of_map, resolve

# Options of the builder, not of the model: decided here, or a way to download something.
RESERVED = {
    *("num_classes", "in_chans", "img_size", "dynamic_img_size", "patch_drop_rate"),
    *("features_only", "out_indices", "feature_cls"),
}


class Timm(ImageAdapter):
    """A timm model by its name: ``dict(type='Timm', name='convnext_tiny')``.

    ``Encoding.pooled`` is what timm gives to its classifier, ``Encoding.tokens`` the last feature
    map or sequence. Plain vision transformers (timm's ``VisionTransformer``) also keep and mask
    patches. Weights are initialised as timm does.

    Args:
        name: as in ``timm.list_models()``; a weights tag behind it loads nothing.
        input_size: side of the images in pixels; None for the size that timm names.
        pretrained: a local safetensors file of the model's weights; its classifier is left out.
        kwargs: further arguments of the model, ``dict(drop_path_rate=0.1)``.

    Raises:
        ValueError: timm is not installed, has no such model, or cannot build it so.
        FileNotFoundError: there are no such weights.
    """

    mask_token: nn.Parameter | None

    def __init__(
        self,
        name: str,
        input_size: int | None = None,
        pretrained: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        timm = library("timm", "timm")
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.0)
            raise ValueError(
                f"timm {timm.__version__} has no model {name!r}; the nearest are {', '.join(near)}"
            )
        arguments = dict(kwargs or {})
        functions = (timm.create_model, timm.models.build_model_with_cfg)
        reserved = RESERVED.union(*(inspect.signature(f).parameters for f in functions))
        for key in arguments:
            if key in reserved or key.startswith("pretrained"):
                raise ValueError(
                    f"kwargs.{key} is not an option of {name} itself, so the tower refuses it; it "
                    "takes input_size, pretrained (a local file) and options of the model"
                )
        with building(f"timm's {name}"):
            with torch.device("meta"):
                draft = timm.create_model(name, num_classes=0, **arguments)
            accepted = inspect.signature(type(draft)).parameters
            if "dynamic_img_size" in accepted:
                arguments["dynamic_img_size"] = True
            if input_size and "img_size" in accepted:
                arguments["img_size"] = input_size
            self.model = timm.create_model(name, num_classes=0, **arguments)
        self.input_size = input_size or self.model.pretrained_cfg["input_size"][-1]

        plain = timm.models.VisionTransformer
        self.keeps = self.masks = (
            isinstance(self.model, plain)
            and type(self.model).forward_features is plain.forward_features
            and type(self.model.patch_embed) is timm.layers.PatchEmbed
        )
        self.register_parameter("mask_token", None)
        if pretrained:
            self._load(pretrained)
        self.adopt(f"timm's {name}")

    def _load(self, path: str) -> None:
        """Loads weights without their classifier; positions take the size of the input."""
        model = self.model
        heads = model.pretrained_cfg["classifier"] or ()
        heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        state = {n: value for n, value in read_weights(path).items() if not n.startswith(heads)}
        if self.keeps and "pos_embed" in state:
            layers = library("timm.layers", "timm")
            state["pos_embed"] = layers.resample_abs_pos_embed(
                state["pos_embed"],
                new_size=model.patch_embed.grid_size,
                num_prefix_tokens=0 if model.no_embed_class else model.num_prefix_tokens,
            )
        load_weights(model, state, path)

    def grow_mask_token(self) -> None:
        """Creates it: zeros, as in iBOT and DINOv2."""
        if self.mask_token is None:
            self.mask_token = nn.Parameter(torch.zeros(1, self.token_width))

    def encode(
        self, images: Tensor, keep: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        model = self.model
        features = (
            self._patches(images, keep, mask) if self.keeps else model.forward_features(images)
        )
        tokens = to_tokens(
            features,
            prefix=getattr(model, "num_prefix_tokens", 0),
            channels_last=getattr(model, "output_fmt", "NCHW") == "NHWC",
        )
        return model.forward_head(features, pre_logits=True), tokens

    def layers(self, images: Tensor, indices: Sequence[int]) -> list[Layer]:
        """Returns timm's ``forward_intermediates``: in its ResNets, the stem is stage 0."""
        model = self.model
        if not hasattr(model, "forward_intermediates"):
            return super().layers(images, indices)
        chosen = resolve(indices, len(model.feature_info))
        unique = sorted(set(chosen))
        options: dict[str, Any] = {"norm": True, "stop_early": True, "intermediates_only": True}
        if "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters:
            options["return_prefix_tokens"] = True
        found: dict[int, Layer] = {}
        outputs = model.forward_intermediates(images, indices=unique, **options)
        for i, output in zip(unique, outputs, strict=True):
            patches, prefix = output if isinstance(output, tuple) else (output, None)
            classed = prefix is not None and getattr(model, "cls_token", None) is not None
            found[i] = Layer(prefix[:, 0], patches) if classed else layer_of_map(patches)
        return [found[i] for i in chosen]

    def _patches(self, images: Tensor, keep: Tensor | None, mask: Tensor | None) -> Tensor:
        """``VisionTransformer.forward_features``, and what it lacks: kept and masked patches."""
        model = self.model
        x = model.patch_embed(images)  # [B, height, width, C]
        if mask is not None:
            if self.mask_token is None:
                raise ValueError("a view is masked, but no need given to Timm.plan() names a mask")
            x = torch.where(mask.view(*x.shape[:3], 1), self.mask_token.to(x.dtype), x)
        x = model._pos_embed(x)
        if keep is not None:
            prefix, patches = x.tensor_split([model.num_prefix_tokens], dim=1)
            kept = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[2]))
            x = torch.cat([prefix, kept], dim=1)
        return model.norm(model.blocks(model.norm_pre(x)))
