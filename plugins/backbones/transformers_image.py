"""Any vision model of transformers as an image tower."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from webssl_toolbox.towers import Layer

from ._foreign import ImageAdapter, to_tokens
from ._layers import grid_of, last_norm, layer_of_map, layer_of_tokens, resolve
from ._transformers import build, read_config


class TransformersImage(ImageAdapter):
    """A vision model of transformers, from a local folder with its ``config.json``.

    A folder of several towers, such as CLIP's, gives its vision model. Models that take
    ``bool_masked_pos`` (ViT, DINOv2 ...) can mask patches; none can drop them.

    Args:
        folder: the model's folder.
        pretrained: load ``model.safetensors`` from it; else weights are random.
        pool: ``'model'``, what the model itself pools (a dense layer and tanh in ViT, the
            normalised class token in DINOv2); ``'cls'``, the first token; ``'mean'`` of the patches
            or of the feature map.
        input_size: side of the images in pixels; None for the config's.

    Raises:
        ValueError: transformers is not installed or cannot build the model, or the folder names
            code.
        FileNotFoundError: a file is missing.
    """

    def __init__(
        self,
        folder: str,
        pretrained: bool = False,
        pool: str = "model",
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        if pool not in ("model", "cls", "mean"):
            raise ValueError(f"pool={pool!r} is none of 'model', 'cls', 'mean'")
        self.pool = pool
        config = read_config(folder, "vision_config")
        self.model = build(folder, config, pretrained, pooling=pool == "model")
        size = getattr(config, "image_size", 224)
        self.input_size = input_size or (size if isinstance(size, int) else size[0])
        accepted = inspect.signature(self.model.forward).parameters
        self.options = dict.fromkeys({"interpolate_pos_encoding"} & accepted.keys(), True)
        self.stride = getattr(config, "patch_size", None)
        encoding = self.adopt(f"the {config.model_type} model in {folder}")
        if "bool_masked_pos" in accepted and isinstance(self.stride, int):
            # Not where patches are merged on the way, as in Swin.
            self.masks = encoding.tokens.shape[1] == (self.input_size // self.stride) ** 2

    def grow_mask_token(self) -> None:
        """Creates it where the config asked for none: zeros, as in iBOT and DINOv2."""
        embeddings = self.model.embeddings
        if embeddings.mask_token is None:
            embeddings.mask_token = nn.Parameter(torch.zeros(1, 1, self.token_width))
        embeddings.mask_token.requires_grad_()

    def encode(
        self, images: Tensor, keep: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        options = self.options if mask is None else self.options | {"bool_masked_pos": mask}
        out = self.model(pixel_values=images, **options)
        features, pooled = out.last_hidden_state, out.get("pooler_output")
        prefix = self._prefix(features, images)
        tokens = to_tokens(features, prefix)
        if self.pool == "cls" and not prefix:
            raise ValueError("it has no class token; set pool='mean' or pool='model'")
        if self.pool == "mean":
            pooled = tokens.mean(1)
        elif self.pool == "cls" or pooled is None:
            pooled = features[:, 0] if prefix else tokens.mean(1)
        return pooled.flatten(1), tokens

    def layers(self, images: Tensor, indices: Sequence[int]) -> list[Layer]:
        with last_norm(self.model) as finish:
            out = self.model(pixel_values=images, output_hidden_states=True, **self.options)
            # The first enters the first block; some models give the last without its norm.
            states = finish([*out.hidden_states[1:-1], out.last_hidden_state])
        found = []
        for i in resolve(indices, len(states)):
            if states[i].dim() == 4:
                found.append(layer_of_map(states[i]))
                continue
            prefix = self._prefix(states[i], images)
            grid = grid_of(states[i].shape[1] - prefix, images)
            found.append(layer_of_tokens(states[i], prefix, prefix > 0, grid))
        return found

    def _prefix(self, features: Tensor, images: Tensor) -> int:
        """Counts class token and registers: what a sequence has beside its patches."""
        if features.dim() != 3 or not isinstance(self.stride, int):
            return 0
        patches = (images.shape[2] // self.stride) * (images.shape[3] // self.stride)
        return max(0, features.shape[1] - patches)
