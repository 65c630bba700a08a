"""What ``Tower.layers`` shares: indices, grids, and the last norm of another library's ViT."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from webssl_toolbox.towers import Layer


def resolve(indices: Sequence[int], count: int) -> list[int]:
    """Counts negative indices from the last of ``count`` layers.

    Raises:
        ValueError: there is no index, or no such layer.
    """
    if not indices or not all(-count <= i < count for i in indices):
        raise ValueError(
            f"layers {list(indices)}: choose some of the {count} layers, 0 to {count - 1}, or "
            f"-{count} to -1 from the last"
        )
    return [i % count for i in indices]


def layer_of_map(features: Tensor) -> Layer:
    """Pools a feature map ``[B, D, H, W]`` by its mean."""
    return Layer(features.mean((2, 3)), features)


def layer_of_tokens(tokens: Tensor, prefix: int, classed: bool, grid: tuple[int, int]) -> Layer:
    """Parts a sequence of class token, registers and patches.

    Args:
        tokens: ``[B, prefix + height * width, D]``.
        prefix: tokens before the patches.
        classed: whether the first of them is a class token.
        grid: height and width in patches.
    """
    patches = tokens[:, prefix:]
    pooled = tokens[:, 0] if classed else patches.mean(1)
    return Layer(pooled, patches.transpose(1, 2).unflatten(2, grid))


def grid_of(patches: int, images: Tensor) -> tuple[int, int]:
    """Returns rows and columns of square patches that cover ``images [B, 3, H, W]``.

    Raises:
        ValueError: so many patches do not.
    """
    height, width = images.shape[-2:]
    side = round((height * width / patches) ** 0.5)
    grid = (height // side, width // side)
    if grid[0] * grid[1] != patches:
        raise ValueError(
            f"{patches} tokens are no grid over images of {height} x {width} pixels; use another "
            "image size, or the last output"
        )
    return grid


@contextmanager
def last_norm(model: nn.Module) -> Iterator[Callable[[Sequence[Tensor]], list[Tensor]]]:
    """Watches a model run; then applies the norm behind its last block to the other blocks, too.

    Libraries apply it to the last block alone, under names of their own: it is the norm, outside of
    the list of blocks, whose output the model returns.

    Yields:
        What maps outputs of blocks, the model's own last, to their normalised ones. Maps, and
        sequences of another shape than the last, stay as they are.
    """
    made: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, args: object, output: Tensor) -> None:
        made.append((module, output))

    def finish(outputs: Sequence[Tensor]) -> list[Tensor]:
        *inner, last = outputs
        norm = next((norm for norm, output in made if output is last and last.dim() == 3), None)
        if norm is None:
            return list(outputs)
        return [*(norm(x) if x.shape == last.shape else x for x in inner), last]

    hooks = [
        module.register_forward_hook(note)
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Norm") and not any(map(str.isdigit, name.split(".")))
    ]
    try:
        yield finish
    finally:
        for hook in hooks:
            hook.remove()
