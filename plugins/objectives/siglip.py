"""SigLIP: is this the caption of that image? Asked of each pair by itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox import Features, Need, Objective, Space, Tower
from webssl_toolbox.compat import full_precision

from ._common import ROWS, attach_pair, in_pieces


class SigLIP(Objective):
    """Classifies each pair of an image and a text of all ranks, by a sigmoid, as a pair or not.

    Zhai et al. 2023 (arXiv 2303.15343), algorithm 1. Its temperature is the joint space's: the
    paper begins with ``temperature=0.1``.

    Args:
        image: view of the image tower.
        text: view of the text tower.
        space: joint space of the two.
        keep: input naming the patches to encode, as for CLIP.
        bias: initial value of the learned bias of logits; at first, it says that no pair is one.
    """

    def __init__(
        self,
        image: str = "v1",
        text: str = "text",
        space: str = "joint",
        keep: str | None = None,
        bias: float = -10.0,
    ) -> None:
        super().__init__()
        self.image, self.text = Need("image", image, keep=keep), Need("text", text)
        self.space = space
        self.bias = nn.Parameter(torch.full([1], bias))

    def needs(self) -> frozenset[Need]:
        """One image view and one text view."""
        return frozenset({self.image, self.text})

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Attaches both towers to the joint space, and uses its temperature."""
        attach_pair(towers, spaces[self.space])

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss``, the inverse temperature ``scale``, and the ``bias``."""
        images = features.embed(self.image, self.space)
        texts = features.gathered(self.text, self.space)
        scale = features.space(self.space).scale()
        loss = sigmoid_loss(images, texts, scale, self.bias)
        return {"loss": loss, "scale": scale.squeeze(), "bias": self.bias.squeeze().clone()}


def sigmoid_loss(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, rows: int = ROWS
) -> Tensor:
    """Binary cross entropy of all pairs, summed over texts.

    Args:
        images: unit vectors ``[B, D]``, this rank's.
        texts: ``[G, D]``, those of all ranks.
        scale: ``[1]``, inverse temperature.
        bias: ``[1]``, added to logits.
        rows: hold the similarities of at most this many images at a time.

    Returns:
        ``[]``, the mean over local images.
    """
    with full_precision(images):
        scaled = images * scale
        pieces = in_pieces(
            lambda piece, offset: _from_rows(scaled[piece], texts, bias, offset), len(images), rows
        )
        return torch.cat(pieces).mean()


def _from_rows(images: Tensor, texts: Tensor, bias: Tensor, offset: int) -> Tensor:
    """Returns the loss of each row, ``[b]``."""
    logits = torch.addmm(bias, images, texts.T)
    # -log sigmoid(-x) = softplus(x), for labels of -1; softplus(-x) = softplus(x) - x, for those of
    # +1. The threshold, above which softplus is taken for x, is put where float64 sees none.
    return F.softplus(logits, threshold=50).sum(1) - logits.diagonal(offset)
