"""Contrastive language-image pre-training."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from webssl_toolbox import Features, Need, Objective, Space, Tower

from ._common import attach_pair, contrast, embedded, gathered


class CLIP(Objective):
    """Tells the caption of an image from those of the other images, and back.

    Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
    figure 3. The batch of all ranks supplies the negatives, with gradient.

    Args:
        image: view of the image tower.
        text: view of the text tower.
        space: joint space of the two.
        keep: input naming the patches to encode, for FLIP (Li et al. 2023).
    """

    def __init__(
        self, image: str = "v1", text: str = "text", space: str = "joint", keep: str | None = None
    ) -> None:
        super().__init__()
        self.image, self.text = Need("image", image, keep=keep), Need("text", text)
        self.space = space

    def needs(self) -> frozenset[Need]:
        """One image view and one text view."""
        return frozenset({self.image, self.text})

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Attaches both towers to the joint space, and uses its temperature."""
        attach_pair(towers, spaces[self.space])

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss`` and the inverse temperature ``scale``."""
        images = embedded(features, [self.image], self.space)
        texts = gathered(features, [self.text], self.space)
        scale = features.space(self.space).scale()
        loss = contrast(images, texts, scale)
        return {"loss": loss.squeeze(), "scale": scale.squeeze()}
