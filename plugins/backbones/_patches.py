"""What towers of patches share: published sizes, and the way from an image to its tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Arch:
    """Sizes of a published model."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    ffn: str = "mlp"


ARCHS = {
    "Ti": Arch(192, 12, 3),  # DeiT (arXiv 2012.12877)
    "S": Arch(384, 12, 6),
    "B": Arch(768, 12, 12),  # arXiv 2010.11929, table 1
    "L": Arch(1024, 24, 16),
    "H": Arch(1280, 32, 16),
    "g": Arch(1408, 40, 16, 48 / 11),  # arXiv 2106.04560, table 2
    "G": Arch(1664, 48, 16, 64 / 13),
    "g-dinov2": Arch(1536, 40, 24, ffn="swiglu"),  # arXiv 2304.07193, table 17
    "1B": Arch(1536, 40, 24),  # Web-SSL, arXiv 2504.01017, table 1; its Web-DINO has SwiGLU
    "2B": Arch(2688, 24, 21),
    "3B": Arch(3072, 26, 24),
    "5B": Arch(3584, 32, 28),
    "7B": Arch(4096, 32, 32),
}


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Returns rows and columns of patches of an image.

    Raises:
        ValueError: half a patch would be left.
    """
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"images of {height} x {width} pixels do not divide into patches of patch_size="
            f"{patch_size}; change the size of the view (or input_size) to a multiple"
        )
    return height // patch_size, width // patch_size


class PatchEmbed(nn.Module):
    """A linear map of patches, whose weight has the shape of timm's convolution.

    Args:
        patch_size: side of a patch in pixels.
        width: channels of a token.
    """

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, width, patch_size, patch_size)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Returns rows and columns of patches of an image; raises ValueError for half a patch."""
        return patch_grid(height, width, self.patch_size)

    def count(self, side: int) -> int:
        """Returns the number of patches of a square image."""
        rows, columns = self.grid(side, side)
        return rows * columns

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embeds the patches of ``[B, 3, H, W]``, row by row; ``[B, N, width]``.

        Args:
            images: all of one size.
            keep: int64 ``[B, K]``, patches that are cut out before the projection; None for all.
        """
        height, width = self.grid(*images.shape[-2:])
        patches = images.reshape(len(images), 3, height, self.patch_size, width, self.patch_size)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        if keep is not None:
            patches = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[2]))
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)
