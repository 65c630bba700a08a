"""The text of a multimodal masked autoencoder: dropped tokens from those that are kept."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox import Features, Need, Objective, Space, Tower, dist

from ._masked import attach_decoder, completed, masked_need


class MAEText(Objective):
    """Predicts the tokens that were dropped from a caption, with the patches kept of its image.

    Geng et al. 2022, "Multimodal Masked Autoencoders Learn Transferable Representations" (M3AE,
    arXiv 2205.14204), section 3: cross-entropy, weighted 0.5 beside 1.0 for the pixels of ``MAE``.

    Args:
        text: a text view that ends with ``DropTokens``.
        tower: a fusion tower.
        view: image view that it encodes with the text; None for captions alone.
        keep: input naming the patches of ``view`` to encode.
        space: the ``MaskDecoder``.
    """

    def __init__(
        self,
        text: str = "text_mae",
        tower: str = "fusion",
        view: str | None = "v1",
        keep: str = "v1_keep",
        space: str = "decoder",
    ) -> None:
        super().__init__()
        self.need = masked_need(tower, view, keep, text)
        self.text, self.space = text, space

    def needs(self) -> frozenset[Need]:
        """The kept tokens, with the kept patches of the image where there is one."""
        return frozenset({self.need})

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Attaches the tower to the decoder, and creates the vocabulary head."""
        attach_decoder(towers, self.need, spaces[self.space], "text")
        vocabulary = towers[self.need.tower].tokenizer.vocab_size
        self.head = nn.Linear(spaces[self.space].dim, vocabulary)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss``, cross-entropy in nats; 0 where no token is dropped."""
        decoded = completed(features, self.need, self.space)[self.text]
        hidden = decoded.flatten(0, 1)[features.input(f"{self.text}.index")]
        target = features.input(f"{self.text}.target")
        total = F.cross_entropy(self.head(hidden), target, reduction="sum")
        return {"loss": dist.mean(total, target.numel())}
