"""FILIP: an image and its caption are compared patch by word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from webssl_toolbox import Features, Need, Objective, Space, Tower, dist
from webssl_toolbox.compat import full_precision

from ._common import ROWS, in_pieces


class FILIP(Objective):
    """Tells the caption of an image from the others by late interaction, and back.

    Yao et al. 2021 (arXiv 2111.07783), section 3.1: an image is as similar to a caption as its
    patches are, on average, each to the nearest word; a caption to an image as its words are, to
    patches. Padding counts nowhere. All tokens ask, but a row offers only the ``top_k`` that are
    most similar to its own pair, and ranks exchange no others: the form of the DeCLIP benchmark
    (Cui et al. 2022).

    Args:
        images: views of the image tower.
        texts: views of the text tower; the loss is the mean over pairs of views.
        top_k: tokens that a row offers; one with fewer offers its best several times.
        space: joint space of the tokens, with their own temperature. Two objectives can share one
            only where pooled encodings are as wide as tokens.

    Raises:
        ValueError: ``top_k`` is below 1.
    """

    def __init__(
        self,
        images: Sequence[str] = ("v1",),
        texts: Sequence[str] = ("text",),
        top_k: int = 16,
        space: str = "tokens",
    ) -> None:
        super().__init__()
        if top_k < 1:
            raise ValueError(f"top_k={top_k}: a row offers at least 1 token")
        self.images = [Need("image", view) for view in images]
        self.texts = [Need("text", view) for view in texts]
        self.top_k, self.space = top_k, space

    def needs(self) -> frozenset[Need]:
        """All views of both towers."""
        return frozenset([*self.images, *self.texts])

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Attaches the tokens of both towers, and uses the temperature."""
        for name in ("image", "text"):
            spaces[self.space].attach(name, towers[name].token_width)
        cast(Any, spaces[self.space]).use_scale()

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss`` and the inverse temperature ``scale``."""
        scale = features.space(self.space).scale()
        images = [self._tokens(features, need) for need in self.images]
        texts = [self._tokens(features, need) for need in self.texts]
        pairs = [late_contrast(*i, *t, scale, self.top_k) for i in images for t in texts]
        return {"loss": torch.stack(pairs).mean(), "scale": scale.squeeze()}

    def _tokens(self, features: Features, need: Need) -> tuple[Tensor, Tensor]:
        """Returns unit tokens ``[B, T, D]``, and each one's share in the mean of its row."""
        encoding = features[need]
        tokens: Tensor = features.space(self.space)(encoding.tokens, need.tower)
        valid = encoding.valid
        weight = torch.ones_like(tokens[..., 0]) if valid is None else valid.to(tokens.dtype)
        return tokens, weight / weight.sum(1, keepdim=True)


def late_contrast(
    patches: Tensor, patch_share: Tensor, words: Tensor, word_share: Tensor, scale: Tensor, k: int
) -> Tensor:
    """InfoNCE in both directions, local rows against the offers of all ranks.

    Args:
        patches: unit vectors ``[B, T, D]``.
        patch_share: ``[B, T]``, a row sums to 1; 0 on padding.
        words: unit vectors ``[B, W, D]``; W may differ from rank to rank.
        word_share: ``[B, W]``.
        scale: ``[1]``, inverse temperature.
        k: tokens that a row offers.

    Returns:
        ``[]``, the mean over local rows.
    """
    with full_precision(patches):
        all_patches = dist.gather(offer(patches, patch_share, words, word_share, k))
        all_words = dist.gather(offer(words, word_share, patches, patch_share, k))
        to_text = one_way(patches * scale, patch_share, all_words)
        to_image = one_way(words * scale, word_share, all_patches)
        return (to_text + to_image) / 2


def offer(tokens: Tensor, share: Tensor, others: Tensor, other_share: Tensor, k: int) -> Tensor:
    """Chooses the ``k`` tokens of each row with the largest summed similarity to its ``others``.

    Where fewer than ``k`` count, the best fills up: a maximum over tokens does not notice.

    Returns:
        ``[B, k, D]``.
    """
    with torch.no_grad():
        mean = other_share.unsqueeze(1) @ others  # the sum of similarities is one to the mean
        score = (mean @ tokens.transpose(1, 2)).squeeze(1).masked_fill(share == 0, -torch.inf)
        score = F.pad(score, (0, max(0, k - score.shape[1])), value=-torch.inf)
        score, index = score.topk(k, dim=1)
        index = torch.where(score > -torch.inf, index, index[:, :1])
    return tokens.gather(1, index.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def one_way(queries: Tensor, share: Tensor, keys: Tensor) -> Tensor:
    """InfoNCE from scaled ``queries [B, T, D]`` to ``keys [G, k, D]``; returns ``[]``."""
    size, length, _ = queries.shape
    pieces = in_pieces(
        lambda piece, offset: _from_rows(queries[piece], share[piece], keys, offset),
        *(size, max(1, ROWS // length)),
    )
    return torch.cat(pieces).mean()


def _from_rows(queries: Tensor, share: Tensor, keys: Tensor, offset: int) -> Tensor:
    """Returns the loss of each row, ``[b]``."""
    similarities = queries.flatten(0, 1) @ keys.flatten(0, 1).T
    best = similarities.view(*queries.shape[:2], *keys.shape[:2]).max(3).values
    logits = (share.unsqueeze(1) @ best).squeeze(1)
    return logits.logsumexp(1) - logits.diagonal(offset)
