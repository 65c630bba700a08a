"""Multi-view supervision: every view of the image with every view of the text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from webssl_toolbox import Features, Need, Objective, Space, Tower

from ._common import attach_pair, contrast, embedded, gathered


class MultiView(Objective):
    """Contrasts further pairs of views of the same image and text.

    DeCLIP (Li et al. 2022), section 3.2: with 2 x 2 views, the three pairs beside CLIP's own. All
    pairs share one matmul.

    Args:
        images: views of the image tower.
        texts: views of the text tower.
        skip: pairs left out, since another objective has them.
        space: joint space of the two.

    Raises:
        ValueError: ``skip`` names no pair of the views, or all of them.
    """

    kept: Tensor

    def __init__(
        self,
        images: Sequence[str] = ("v1", "v2"),
        texts: Sequence[str] = ("text", "text_aug"),
        skip: Sequence[tuple[str, str]] = (("v1", "text"),),
        space: str = "joint",
    ) -> None:
        super().__init__()
        self.images = [Need("image", view) for view in images]
        self.texts = [Need("text", view) for view in texts]
        self.space = space
        skipped = {tuple(pair) for pair in skip}
        if others := skipped - set(itertools.product(images, texts)):
            raise ValueError(
                f"skip names {sorted(others)}, which are no pairs of {images} and {texts}; leave "
                "them out of it"
            )
        kept = [[float((i, t) not in skipped) for t in texts] for i in images]
        if not any(map(any, kept)):
            raise ValueError(f"MultiView skips all pairs of {images} and {texts}; leave one")
        # Ones and zeros are exact in any precision, as shares are not.
        self.count = sum(map(sum, kept))
        self.register_buffer("kept", torch.tensor(kept), persistent=False)

    def needs(self) -> frozenset[Need]:
        """All views of both towers."""
        return frozenset([*self.images, *self.texts])

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Attaches both towers to the joint space, and uses its temperature."""
        attach_pair(towers, spaces[self.space])

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss``, the mean over pairs."""
        images = embedded(features, self.images, self.space)
        texts = gathered(features, self.texts, self.space)
        scale = features.space(self.space).scale()
        pairs = contrast(images, texts, scale)
        return {"loss": (pairs * self.kept).sum() / self.count}
