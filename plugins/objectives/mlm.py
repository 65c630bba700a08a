"""Masked language modelling on captions."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox import Features, Need, Objective, Space, Tower, dist


class MLM(Objective):
    """Predicts the hidden tokens of a caption (DeCLIP, section 3.2; BERT, Devlin et al. 2019).

    Tokens are hidden in the loader (view transform ``MaskTokens``). The vocabulary is scored at
    hidden positions only, and their mean is over all ranks, whose counts differ.

    Args:
        text: a masked view of the text tower.
    """

    def __init__(self, text: str = "text_mlm") -> None:
        super().__init__()
        self.text = Need("text", text)
        self.view = text

    def needs(self) -> frozenset[Need]:
        """The masked text view."""
        return frozenset({self.text})

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Creates the vocabulary head, initialised small so that training starts at log(V)."""
        text = towers["text"]
        self.head = nn.Linear(text.token_width, text.tokenizer.vocab_size)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss``, cross-entropy in nats; 0 where no token is hidden."""
        hidden = features[self.text].tokens.flatten(0, 1)[features.input(f"{self.view}.index")]
        target = features.input(f"{self.view}.target")
        total = F.cross_entropy(self.head(hidden), target, reduction="sum")
        return {"loss": dist.mean(total, target.numel())}
