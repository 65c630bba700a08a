"""Captions to tokens, in the loader's workers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from webssl_toolbox.data.collate import Tokens
from webssl_toolbox.data.rng import stable_hash
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.data.views import Context, Transform


class Caption(Transform):
    """Chooses one caption of the sample.

    Args:
        pick: the index of a caption (a sample with fewer gives its last), ``'random'``, or
            ``'joined'`` for all of them with spaces between.
    """

    reads: ClassVar[str] = "captions"

    def __init__(self, pick: int | str = 0) -> None:
        if pick not in ("random", "joined") and not (isinstance(pick, int) and pick >= 0):
            raise ValueError(
                f"Caption: pick is an index from 0, 'random' or 'joined', not {pick!r}"
            )
        self.pick = pick

    def __call__(self, value: tuple[str, ...], sample: Sample, rng: np.random.Generator) -> str:
        if not value:
            raise ValueError(
                f"{sample.key} has no caption, but a text view asks for one: tell the dataset "
                "where captions are"
            )
        if isinstance(self.pick, int):
            return value[min(self.pick, len(value) - 1)]
        return " ".join(value) if self.pick == "joined" else value[int(rng.integers(len(value)))]


class Tokenize(Transform):
    """Turns a caption into the ids of a text tower's tokenizer."""

    def __init__(self, tower: str = "text") -> None:
        self.tower = tower

    def bind(self, context: Context) -> None:
        """Takes the tower's tokenizer."""
        self.tokenizer: Any = context.tower(self.tower).tokenizer

    def __call__(self, value: str, sample: Sample, rng: np.random.Generator) -> Tokens:
        return Tokens(self.tokenizer.encode(value), stable_hash(sample.captions[0]))


class MaskTokens(Transform):
    """Hides tokens for masked language modelling (BERT, Devlin et al. 2019, section 3.1).

    Of the hidden ones, 80 % become the mask token, 10 % a random token and 10 % stay. Start and
    end are never hidden, and never drawn at random: a stray end would move the pooled position.

    Args:
        prob: share of tokens to hide.
        tower: whose tokenizer knows the mask token.
    """

    def __init__(self, prob: float = 0.15, tower: str = "text") -> None:
        if not 0 < prob <= 1:
            raise ValueError(f"MaskTokens: prob is a share in (0, 1], not {prob}")
        self.prob, self.tower = prob, tower

    def bind(self, context: Context) -> None:
        """Takes the ids of mask, start and end."""
        tokenizer: Any = context.tower(self.tower).tokenizer
        self.mask, self.words = tokenizer.mask, min(tokenizer.sot, tokenizer.eot)

    def __call__(self, value: Tokens, sample: Sample, rng: np.random.Generator) -> Tokens:
        # Start and end frame the row, so the inside is what can be hidden.
        index = 1 + np.flatnonzero(rng.random(len(value.ids) - 2) < self.prob)
        ids = value.ids.copy()
        fate = rng.random(len(index))
        ids[index[fate < 0.8]] = self.mask
        swapped = index[(fate >= 0.8) & (fate < 0.9)]
        ids[swapped] = rng.integers(self.words, size=len(swapped))
        return Tokens(ids, value.caption, index, value.ids[index])


class DropTokens(Transform):
    """Leaves tokens out of the encoder, which an objective then predicts (M3AE, section 3.1).

    The same share of each caption, as MAE does with patches. Start and end always stay, so that no
    caption is empty; a caption of one word loses it.

    Args:
        ratio: share of the tokens between start and end that is dropped.
    """

    def __init__(self, ratio: float = 0.75) -> None:
        if not 0 < ratio <= 1:
            raise ValueError(f"DropTokens: ratio is a share in (0, 1], not {ratio}")
        self.ratio = ratio

    def __call__(self, value: Tokens, sample: Sample, rng: np.random.Generator) -> Tokens:
        words = len(value.ids) - 2
        count = min(words, max(1, round(words * self.ratio)))
        dropped = 1 + np.sort(rng.permutation(words)[:count])
        kept = np.setdiff1d(np.arange(len(value.ids)), dropped)
        return Tokens(value.ids, value.caption, dropped, value.ids[dropped], kept)
