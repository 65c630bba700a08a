"""Masked autoencoder: the pixels of hidden patches from the patches that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox import Features, Need, Objective, Space, Tower

from ._masked import (
    attach_decoder,
    completed,
    hidden_places,
    masked_need,
    mean_over_rows,
    pick,
)

EPS = 1e-6


class MAE(Objective):
    """Predicts the pixels of hidden patches; the tower encodes the kept ones alone.

    He et al. 2021, "Masked Autoencoders Are Scalable Vision Learners" (arXiv 2111.06377), section
    3: the mean squared error over hidden patches, normalised by each patch's mean and deviation.

    Args:
        view: the image view, of the tower's input size.
        keep: input naming the patches to encode, from the view step ``RandomKeep``.
        tower: a tower that encodes patches.
        text: text view that a fusion tower encodes with the image (M3AE); None for images alone.
        space: the ``MaskDecoder``.
        normalize: whether targets are normalised, which the paper found better (table 1d).
    """

    def __init__(
        self,
        view: str = "v1",
        keep: str = "v1_keep",
        tower: str = "image",
        text: str | None = None,
        space: str = "decoder",
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.need = masked_need(tower, view, keep, text)
        self.view, self.keep, self.space, self.normalize = view, keep, space, normalize

    def needs(self) -> frozenset[Need]:
        """The kept patches, with the kept tokens of the text where there is one."""
        return frozenset({self.need})

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Attaches the tower to the decoder, and creates the map to pixels."""
        tower = towers[self.need.tower]
        self.patches = tower.num_patches()
        self.patch_size: int = cast(Any, tower).patch_size
        attach_decoder(towers, self.need, spaces[self.space], "image", self.patches)
        self.head = nn.Linear(spaces[self.space].dim, 3 * self.patch_size**2)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss``, the mean over hidden patches and their pixels."""
        patches, hidden, predicted = self._predict(features)
        target = pick(patches, hidden)
        if self.normalize:
            mean, deviation = moments(target)
            target = (target - mean) / deviation
        rows = F.mse_loss(predicted, target, reduction="none").mean((1, 2))
        (part, *_) = features.segment(self.need).parts
        return {"loss": mean_over_rows(rows, part.present)}

    @torch.no_grad()
    def reconstruct(self, features: Features) -> Tensor:
        """Paints the hidden patches; kept ones stay as they are.

        A normalised prediction gets the true patch's mean and deviation, as in the paper's figures.

        Returns:
            Images ``[B, 3, H, W]``, in the scale of the view.
        """
        patches, hidden, predicted = self._predict(features)
        if self.normalize:
            mean, deviation = moments(pick(patches, hidden))
            predicted = predicted * deviation + mean
        places = hidden[..., None].expand_as(predicted)
        return unpatchify(patches.scatter(1, places, predicted.to(patches)), self.patch_size)

    def _predict(self, features: Features) -> tuple[Tensor, Tensor, Tensor]:
        """Returns patches ``[B, N, D]``, hidden places ``[B, M]``, and what is predicted there."""
        patches = patchify(features.input(self.view), self.patch_size)
        if patches.shape[1] != self.patches:
            raise ValueError(
                f"view {self.view!r} has {patches.shape[1]} patches, but the decoder is made for "
                f"{self.patches}; give the view the size of the tower's input"
            )
        hidden = hidden_places(features.input(self.keep), self.patches)
        decoded = completed(features, self.need, self.space)[self.view]
        # At least float32: on a CPU, autocast would leave the loss in bfloat16.
        predicted = self.head(pick(decoded, hidden))
        predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
        return patches, hidden, predicted


def patchify(images: Tensor, size: int) -> Tensor:
    """Cuts ``[B, 3, H, W]`` into ``[B, N, size * size * 3]``, pixel by pixel, as in MAE's code."""
    rows, columns = (side // size for side in images.shape[-2:])
    grid = images.unflatten(2, (rows, size)).unflatten(4, (columns, size))
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, size: int) -> Tensor:
    """Joins the patches of square images; the inverse of ``patchify``."""
    side = round(patches.shape[1] ** 0.5)
    grid = patches.view(len(patches), side, side, size, size, 3)
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and deviation of each patch, ``[B, M, 1]``; the variance is the unbiased one."""
    # On a CPU five times as fast as torch.var_mean, which took a hundredth of a step.
    mean = patches.mean(-1, keepdim=True)
    squares = (patches - mean).square().sum(-1, keepdim=True)
    return mean, (squares / (patches.shape[-1] - 1) + EPS).sqrt()
