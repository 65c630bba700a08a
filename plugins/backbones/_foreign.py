"""What the adapters to other libraries share: import, norms, weights, and a tower of images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from webssl_toolbox.compat import import_torchvision
from webssl_toolbox.norm import SyncBatchNorm
from webssl_toolbox.objective import Need
from webssl_toolbox.towers import Encoding, Part, Segment, Tower, refuse_patches

from ._common import join, join_masks, refuse_fusion


def library(module: str, extra: str) -> Any:
    """Imports a module of an optional package.

    Raises:
        ValueError: it is not installed; names the extra that brings it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they deprecate things at one another
            import_torchvision()
            return import_module(module)
    except ImportError as error:
        raise ValueError(
            f"this tower needs {error.name or module}, which is not installed; "
            f"pip install 'webssl-toolbox[{extra}]'"
        ) from error


@contextmanager
def building(what: str) -> Iterator[None]:
    """Turns a failure inside another library into one sentence that names the model.

    Raises:
        ValueError: as above.
    """
    try:
        yield
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{what} cannot be built: {reason}") from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a local safetensors file.

    Raises:
        FileNotFoundError: there is no such file; nothing is downloaded.
        ValueError: it is of another kind; a pickle may run code.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; weights are local, none are downloaded")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file, and others may run code; convert it first"
        ) from error


def load_weights(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Loads all of ``state``, which came from ``path``, into all of a model.

    Raises:
        ValueError: it is of another model.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        # Torch has a line of its own for missing, unexpected and misshapen names.
        reason = " ".join(str(error).split())[:400]
        raise ValueError(f"the weights of {path} are not of this model: {reason}") from error


class NormAct(SyncBatchNorm):
    """A batch norm that timm fused with what follows it."""

    def __init__(self, norm: Any, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = norm.drop, norm.act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def sync_batch_norms(model: nn.Module) -> bool:
    """Replaces every batch norm in place by one over all ranks; returns whether there were any.

    Raises:
        ValueError: a norm without running statistics or a fixed momentum.
    """
    synced: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, norm in parent._modules.items():
            if isinstance(norm, _BatchNorm):
                if norm not in synced:
                    synced[norm] = _synced(norm)
                parent._modules[name] = synced[norm]
    return bool(synced)


def _synced(norm: _BatchNorm) -> SyncBatchNorm:
    if norm.running_mean is None or norm.momentum is None:
        raise ValueError(
            f"{norm} keeps no running statistics with a fixed momentum, so it cannot span ranks; "
            "build the model with its usual norm"
        )
    channels = norm.num_features
    new = NormAct(norm, channels) if hasattr(norm, "act") else SyncBatchNorm(channels)
    new.eps, new.momentum = norm.eps, norm.momentum
    new.weight, new.bias = norm.weight, norm.bias
    assert norm.running_var is not None
    new.running_mean, new.running_var = norm.running_mean, norm.running_var
    return new


class ImageAdapter(Tower):
    """A model of another library as a tower of images.

    Views of one size share a pass, unless batch norms want the statistics of each view. A subclass
    calls ``adopt`` at the end of its ``__init__`` and implements ``encode``.

    Attributes:
        model: the model; its state keeps the names of its library, below ``model.``.
        patch_size: side of the patches that images are cut into, in pixels; None for none.
        masks: whether the model can mask patches.
        keeps: whether it can encode a subset of them.
    """

    input_size: int
    model: Any
    patch_size: int | None = None
    masks: bool = False
    keeps: bool = False

    def encode(
        self, images: Tensor, keep: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns pooled ``[B, width]`` and tokens ``[B, T, token_width]`` of one size of images.

        Args:
            images: ``[B, 3, H, W]``.
            keep: int64 ``[B, K]`` or None, as in ``Part``.
            mask: bool ``[B, N]`` or None.
        """
        raise NotImplementedError

    def grow_mask_token(self) -> None:
        """Creates or unfreezes the mask token: a need masks patches."""
        raise NotImplementedError

    def adopt(self, what: str) -> Encoding:
        """Synchronises batch norms, measures sizes, and freezes what no encoding depends on.

        Args:
            what: the model in words, for messages.

        Returns:
            The encoding of two images, without values.

        Raises:
            ValueError: the model does not encode an image of ``input_size``, or does not pool.
        """
        self.by_view = sync_batch_norms(self.model)
        self.patch_size = _patch_size(self.model)
        image = torch.empty(2, 3, self.input_size, self.input_size, device="meta")
        segment = Segment(Need("", "image"), (Part("image", image),))
        with building(f"{what} at input_size={self.input_size}"):
            encoding = freeze_unused(self, segment)
        if encoding.pooled.dim() != 2:
            raise ValueError(f"{what} does not pool its tokens; leave global_pool out")
        self.width, self.token_width = encoding.pooled.shape[1], encoding.tokens.shape[2]
        return encoding

    def plan(self, needs: frozenset[Need]) -> None:
        refuse_fusion(self, needs)
        if not self.masks:
            refuse_patches(self, needs)
        for need in needs:
            if need.keep and not self.keeps:
                raise ValueError(
                    f"{type(self).__name__} encodes all patches of an image, but {need} drops some;"
                    " use type='ViT', or type='Timm' with a plain vision transformer"
                )
        if any(need.mask for need in needs):
            self.grow_mask_token()

    def num_patches(self, size: int | None = None) -> int:
        if not self.masks or self.patch_size is None:
            return super().num_patches(size)
        return ((size or self.input_size) // self.patch_size) ** 2

    def forward(self, segments: list[Segment]) -> list[Encoding]:
        groups: dict[Any, list[int]] = {}
        for i, segment in enumerate(segments):
            part = segment.part
            kept = None if part.keep is None else part.keep.shape[1]
            key = i if self.by_view else (part.data.shape[2:], kept)
            groups.setdefault(key, []).append(i)
        encodings: dict[int, Encoding] = {}
        for group in groups.values():
            parts = [segments[i].part for i in group]
            images = join([part.data for part in parts])
            keep = [part.keep for part in parts if part.keep is not None]
            pooled, tokens = self.encode(images, join(keep) if keep else None, join_masks(parts))
            rows = [len(part.data) for part in parts]
            pairs = zip(pooled.split(rows), tokens.split(rows), strict=True)
            encodings |= {i: Encoding(*pair) for i, pair in zip(group, pairs, strict=True)}
        return [encodings[i] for i in range(len(segments))]


def _patch_size(model: nn.Module) -> int | None:
    """Returns the stride of the first convolution if its windows tile the image: of patches.

    Else, as in most convnets, they overlap, and an image of any size has a border that is padded.
    """
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.kernel_size != first.stride or first.stride[0] == 1:
        return None
    return first.stride[0]


def freeze_unused(tower: Tower, segment: Segment) -> Encoding:
    """Freezes the parameters that the encoding of a segment does not depend on.

    A parameter without a gradient stalls data parallelism: another library's pooling head, mask
    token or last norm. The tower runs on the meta device, so this computes nothing.

    Args:
        tower: as built, in training mode.
        segment: of tensors on the meta device.

    Returns:
        The encoding, on the meta device: its shapes are those of the tower.
    """
    named = {n: p for n, p in tower.named_parameters() if p.requires_grad}
    state = {n: torch.empty_like(b, device="meta") for n, b in tower.named_buffers()}
    state |= {n: torch.empty_like(p, device="meta") for n, p in tower.named_parameters()}
    tower.eval()  # batch norms would gather
    with torch.enable_grad():
        leaves = [state[n].requires_grad_() for n in named]
        (encoding,) = torch.func.functional_call(tower, state, ([segment],))
        total = encoding.pooled.sum() + encoding.tokens.sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    tower.train()
    for parameter, gradient in zip(named.values(), gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    return encoding


def to_tokens(features: Tensor, prefix: int = 0, channels_last: bool = False) -> Tensor:
    """Returns ``[B, T, C]`` of a sequence ``[B, prefix + T, C]`` or a feature map."""
    if not isinstance(features, Tensor) or features.dim() not in (3, 4):
        raise ValueError("it gives neither one sequence of tokens nor one feature map")
    if features.dim() == 3:
        return features[:, prefix:]
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
