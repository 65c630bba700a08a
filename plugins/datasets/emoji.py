"""The embedded corpus: 1,949 concepts drawn by independent design teams, with captions.

It fits in the package, renders at any size and comes with tests that a copy of the training set
does not solve: a drawing style that was never seen, and concepts that were never seen.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from webssl_toolbox.data.rng import stable_hash
from webssl_toolbox.data.sample import Sample

from ._emoji_render import DATA, open_renders, read_data

TRAIN_DESIGNERS = ("noto", "twemoji", "emojione")
TEST_DESIGNERS = ("noto-v1", "fluent-flat", "fluent-high-contrast")
SPLITS = (
    "train",
    "train-drawings",
    *TEST_DESIGNERS,
    "noto-v1-distinct",
    *(f"unseen/{designer}" for designer in TEST_DESIGNERS),
)
TARGETS = ("concept", "group", "subgroup")
# A tag that many concepts carry ("face", "flag") is a category; it replaces no word.
SYNONYM_MAX_CONCEPTS = 3


class Emoji:
    """Drawings of concepts with alpha masks, captioned by a label and by tags.

    Splits:
        train: the seen concepts; ``load`` draws one of the designers noto, twemoji and emojione.
        train-drawings: every drawing of ``train``, one sample each (a bank for nearest neighbours).
        noto-v1, fluent-flat, fluent-high-contrast: seen concepts by a designer never trained on.
            The two fluent sets are one family.
        noto-v1-distinct: without drawings nearly equal to one of the same concept in ``train``
            (RMSE below .08 at 64 px on white).
        unseen/noto-v1, unseen/fluent-flat, unseen/fluent-high-contrast: the concepts that no
            training split holds, whoever drew them.

    Attributes:
        classes: with target ``concept`` the labels a zero-shot test chooses from: all concepts, or
            the unseen ones in an ``unseen/`` split. Otherwise the names of the (sub)groups.
        synonyms: words that name the same seen concept, from its label and tags.

    Args:
        split: one of ``SPLITS``.
        size: side of the square renders in pixels; views crop from them.
        target: what ``Sample.label`` tells: ``concept``, ``group`` (10) or ``subgroup`` (100). 26
            concepts have no group: label -1.
        language: of captions and concept names, such as ``de`` or ``zh-hant``.
        fraction: share of the training concepts to keep; a smaller share is a subset of a larger.
        cache_dir: where renders are kept; by default ``$WEBSSL_CACHE`` or the user's cache folder.

    Raises:
        ValueError: an argument is not one of those that exist.
    """

    classes: Sequence[str]
    synonyms: Mapping[str, Sequence[str]]

    def __init__(
        self,
        split: str = "train",
        size: int = 48,
        target: str = "concept",
        language: str = "en",
        fraction: float = 1.0,
        cache_dir: str | Path | None = None,
    ) -> None:
        _check("split", split, SPLITS)
        _check("target", target, TARGETS)
        _check("language", language, sources()["captions"]["languages"])
        if size < 1:
            raise ValueError(f"size={size}: give the side of the renders in pixels, 48 say")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction={fraction}: give a share of the concepts in (0, 1]")
        if fraction < 1 and not split.startswith("train"):
            raise ValueError(f"fraction={fraction} thins the training set, but split={split!r}")
        self.split, self.size, self.cache_dir = split, size, cache_dir
        self._captions: dict[str, list[str]] = read_data(f"captions-{language}")

        train = _train_concepts(fraction)
        self._drawings = _drawings(split, train)  # one sample each: a concept, its designers
        self._renders: dict[str, np.ndarray] = {}

        if target == "concept":
            candidates = _unseen_concepts() if split.startswith("unseen/") else list(concepts())
            self.classes = [self._captions[key][0] for key in candidates]
            self._labels = {key: index for index, key in enumerate(candidates)}
        else:
            names = {key: concept[target] for key, concept in concepts().items()}
            self.classes = sorted({name for name in names.values() if name})
            index = {name: label for label, name in enumerate(self.classes)}
            self._labels = {key: index.get(name, -1) for key, name in names.items()}
        self.synonyms = synonyms([self._captions[key] for key in train])

    def prepare(self) -> None:
        """Renders what the split needs, unless that was done; call it before workers start."""
        for designer in sorted({name for _, names in self._drawings for name in names}):
            self._open(designer)

    def __len__(self) -> int:
        return len(self._drawings)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Returns a sample with an RGBA image, uint8 ``[size, size, 4]``, straight alpha."""
        key, designers = self._drawings[index]
        designer = designers[int(rng.integers(len(designers)))]
        label, *tags = self._captions[key]
        return Sample(
            image=np.array(self._open(designer)[_rows()[designer, key]]),
            captions=(label, ", ".join(tags)) if tags else (label,),
            label=self._labels[key],
            key=f"{designer}/{key}",
        )

    def _open(self, designer: str) -> np.ndarray:
        if designer not in self._renders:
            self._renders[designer] = open_renders(designer, self.size, self.cache_dir)
        return self._renders[designer]

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map is a copy of the file; a spawned worker opens its own.
        return self.__dict__ | {"_renders": {}}


@cache
def concepts() -> dict[str, dict[str, Any]]:
    """Returns group, subgroup and designers of every concept, in the order of code points."""
    return dict(sorted(read_data("concepts").items()))


@cache
def sources() -> dict[str, dict[str, Any]]:
    """Returns author, licence and version of what the corpus is made of."""
    return json.loads((DATA / "sources.json").read_text(encoding="utf-8"))


def synonyms(captions: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Pairs the one-word label of a concept with each of its one-word tags, both ways.

    Args:
        captions: for each concept its label, then its tags.

    Returns:
        Lower-case word -> sorted words that may replace it.
    """
    words = [[text.lower() for text in texts if len(text.split()) == 1] for texts in captions]
    carriers: dict[str, int] = defaultdict(int)
    for word in (word for found in words for word in set(found)):
        carriers[word] += 1
    pairs: dict[str, set[str]] = defaultdict(set)
    for (label, *_), found in zip(captions, words, strict=True):
        for tag in set(found) - {label.lower()} if len(label.split()) == 1 else ():
            if carriers[tag] <= SYNONYM_MAX_CONCEPTS:
                pairs[label.lower()].add(tag)
                pairs[tag].add(label.lower())
    return {word: sorted(others) for word, others in sorted(pairs.items())}


@cache
def _rows() -> dict[tuple[str, str], int]:
    """Returns the row of each drawing in the renders of its designer."""
    return {
        (designer, key): row
        for designer in (*TRAIN_DESIGNERS, *TEST_DESIGNERS)
        for row, key in enumerate(k for k, c in concepts().items() if designer in c["designers"])
    }


def _unseen_concepts() -> list[str]:
    return [key for key, concept in concepts().items() if concept["unseen"]]


def _train_concepts(fraction: float) -> list[str]:
    held = [
        key
        for key, concept in concepts().items()
        if not concept["unseen"] and set(TRAIN_DESIGNERS) & set(concept["designers"])
    ]
    kept = sorted(held, key=lambda key: stable_hash(f"fraction/{key}"))
    return sorted(kept[: max(1, round(fraction * len(held)))])


def _drawings(split: str, train: list[str]) -> list[tuple[str, list[str]]]:
    """Lists the samples of a split: a concept and the designers to draw from."""
    drawn = {key: concept["designers"] for key, concept in concepts().items()}
    if split.startswith("train"):
        held = [(key, [name for name in drawn[key] if name in TRAIN_DESIGNERS]) for key in train]
        if split == "train":
            return held
        return [(key, [name]) for key, names in held for name in names]
    designer = split.removeprefix("unseen/").removesuffix("-distinct")
    keys = _unseen_concepts() if split.startswith("unseen/") else train
    if split.endswith("-distinct"):
        keys = [key for key in keys if designer not in concepts()[key]["near_duplicates"]]
    return [(key, [designer]) for key in keys if designer in drawn[key]]


def _check(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        near = get_close_matches(str(value), known, n=3, cutoff=0.4) or known
        raise ValueError(f"{name}={value!r} does not exist; did you mean {' or '.join(near)}?")
