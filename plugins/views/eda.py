"""EDA: easy data augmentation of captions.

Wei and Zou, EMNLP-IJCNLP 2019 (https://arxiv.org/abs/1901.11196), in the choice of DeCLIP (Li et
al., ICLR 2022): synonym replacement, random swap or random deletion, without random insertion.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from webssl_plugins.views._wordnet import read_synonyms
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.data.views import Transform

Synonyms = Mapping[str, Sequence[str]]

_STOP_WORDS = """
a an the this that these those some any each every no and or but nor so than then if because as of
at by for with about against between into through during before after above below to from up down in
out on off over under again once here there when where why how i me my we us our you your he him his
she her hers it its they them their what which who whom whose am is are was were be been being have
has had having do does did doing will would shall should can could may might must not only own same
too very just
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


def synonym_replacement(
    words: Sequence[str], rng: np.random.Generator, synonyms: Synonyms, n: int
) -> list[str]:
    """Replaces ``n`` distinct words, everywhere they occur, by a synonym each.

    Stop words stay. Case and the punctuation around a word are no part of it: ``"Dog,"`` is looked
    up as ``dog`` and keeps its comma.
    """
    bare = [word.strip(string.punctuation) for word in words]
    known = {core.lower() for core in bare} - STOP_WORDS
    candidates = sorted(core for core in known if synonyms.get(core))
    chosen = [candidates[i] for i in rng.permutation(len(candidates))[:n]]
    new = {core: _draw(synonyms[core], rng) for core in chosen}
    return [
        word.replace(core, new[core.lower()]) if core.lower() in new else word
        for word, core in zip(words, bare, strict=True)
    ]


def random_swap(words: Sequence[str], rng: np.random.Generator, n: int) -> list[str]:
    """Swaps two words at different positions, ``n`` times; a single word stays."""
    swapped = list(words)
    if len(swapped) > 1:
        for _ in range(n):
            i, j = rng.choice(len(swapped), size=2, replace=False)
            swapped[i], swapped[j] = swapped[j], swapped[i]
    return swapped


def random_deletion(words: Sequence[str], rng: np.random.Generator, p: float) -> list[str]:
    """Deletes each word with probability ``p``; if none is left, one drawn at random stays."""
    kept = [word for word, draw in zip(words, rng.random(len(words)), strict=True) if draw >= p]
    return kept or [_draw(words, rng)]


def _draw(items: Sequence[str], rng: np.random.Generator) -> str:
    return items[int(rng.integers(len(items)))]


class EDA(Transform):
    """Augments a caption by one of three operations, drawn uniformly.

    Without any synonyms (no ``wordnet``, and a dataset that knows none) the draw is between swap
    and deletion; a third of the captions would pass unchanged otherwise. Nothing is downloaded.

    Args:
        wordnet: the ``dict`` folder of WordNet 3.x; by default the dataset's own synonyms serve.
        alpha: fraction of the words that are replaced, or number of swaps per word; at least one.
        deletion: probability with which deletion takes each word.

    Raises:
        ValueError: a fraction outside [0, 1].
        FileNotFoundError: from ``bind``, if ``wordnet`` lacks WordNet's files.
    """

    def __init__(
        self, wordnet: str | None = None, alpha: float = 0.1, deletion: float = 0.1
    ) -> None:
        for name, value in (("alpha", alpha), ("deletion", deletion)):
            if not 0 <= value <= 1:
                raise ValueError(f"EDA: {name}={value}; it must lie between 0 and 1")
        self.wordnet = wordnet
        self.alpha = alpha
        self.deletion = deletion
        self.synonyms: Synonyms = {}

    def bind(self, context: Any) -> None:
        """Takes the synonyms from WordNet if it was given, else from ``context.dataset``."""
        self.synonyms = (
            context.dataset.synonyms if self.wordnet is None else read_synonyms(self.wordnet)
        )

    def __call__(self, value: Any, sample: Sample, rng: np.random.Generator) -> str:
        """Returns the augmented caption, words joined by single spaces; none if it had none."""
        words: list[str] = value.split()
        if not words:
            return value
        n = max(1, int(self.alpha * len(words)))
        operation = rng.integers(0 if self.synonyms else 1, 3)
        if operation == 0:
            words = synonym_replacement(words, rng, self.synonyms, n)
        elif operation == 1:
            words = random_swap(words, rng, n)
        else:
            words = random_deletion(words, rng, self.deletion)
        return " ".join(words)
