"""EDA's operations, and synonyms from WordNet's files."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from webssl_plugins.views._wordnet import DATA_FILES, read_synonyms
from webssl_plugins.views.eda import EDA, random_deletion, random_swap, synonym_replacement
from webssl_toolbox.data.sample import Sample

SAMPLE = Sample(image=None)
WORDS = ["A", "Dog,", "chases", "the", "dog", "near", "THE", "red", "house"]
SYNONYMS = {"dog": ("hound",), "red": ("crimson", "scarlet"), "the": ("wrong",), "near": ()}


def rng(seed=0):
    return np.random.default_rng(seed)


def bound(**options):
    eda = EDA(**options)
    eda.bind(SimpleNamespace(dataset=SimpleNamespace(synonyms=SYNONYMS)))
    return eda


def test_synonym_replacement_counts_words_and_keeps_punctuation():
    seen = {tuple(synonym_replacement(WORDS, rng(seed), SYNONYMS, n=1)) for seed in range(50)}
    assert seen == {
        tuple(["A", "hound,", "chases", "the", "hound", "near", "THE", "red", "house"]),
        tuple(["A", "Dog,", "chases", "the", "dog", "near", "THE", "crimson", "house"]),
        tuple(["A", "Dog,", "chases", "the", "dog", "near", "THE", "scarlet", "house"]),
    }
    both = synonym_replacement(WORDS, rng(), SYNONYMS, n=9)
    assert both[1] == "hound,"
    assert both[7] in SYNONYMS["red"]
    assert both[6] == "THE"
    assert synonym_replacement(["--", "?"], rng(), SYNONYMS, n=1) == ["--", "?"]


def test_random_swap_moves_two_words():
    for seed in range(20):
        words = random_swap(WORDS, rng(seed), n=1)
        assert Counter(words) == Counter(WORDS)
        assert sum(new != old for new, old in zip(words, WORDS, strict=True)) == 2
    assert random_swap(["cat"], rng(), n=3) == ["cat"]


def test_random_deletion_keeps_order_rate_and_one_word():
    words = [str(i) for i in range(10_000)]
    kept = random_deletion(words, rng(), p=0.2)
    assert kept == sorted(kept, key=int)
    assert 7_800 < len(kept) < 8_200
    assert {tuple(random_deletion(["a", "b"], rng(s), p=1.0)) for s in range(20)} == {
        ("a",),
        ("b",),
    }


def test_the_draw_is_uniform_and_reproducible():
    eda, text = bound(deletion=1.0), "dog sat"
    results = Counter(eda(text, SAMPLE, rng(seed)) for seed in range(3000))
    for outcome in ("hound sat", "sat dog"):  # replaced, swapped; the rest is deletion
        assert 900 < results[outcome] < 1100
    assert results["dog"] + results["sat"] + results["hound sat"] + results["sat dog"] == 3000
    assert eda(text, SAMPLE, rng(7)) == eda(text, SAMPLE, rng(7))


def test_number_of_changes_grows_with_alpha():
    words = " ".join(f"w{i}" for i in range(40))
    eda = EDA(alpha=0.5, deletion=0.0)
    moved = [
        sum(a != b for a, b in zip(eda(words, SAMPLE, rng(s)).split(), words.split(), strict=True))
        for s in range(20)
    ]
    assert max(moved) > 10


def test_without_synonyms_every_caption_may_change():
    eda = EDA(deletion=1.0)
    assert {eda("a cat", SAMPLE, rng(seed)) for seed in range(50)} == {"cat a", "a", "cat"}


@pytest.mark.parametrize("text", ["cat", "", "  ", "?"])
def test_short_captions(text):
    for seed in range(20):
        assert bound(deletion=1.0)(text, SAMPLE, rng(seed)) == text


@pytest.mark.parametrize("options", [dict(alpha=-0.1), dict(deletion=1.5)])
def test_bad_fractions(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        EDA(**options)


LICENCE = "  1 This software and database is being provided to you\n"
DATA = {
    "data.noun": "00001740 05 n 03 dog 0 domestic_dog 0 Hound 1 001 @ 00 n 0000 | x\n",
    "data.verb": "00001741 30 v 02 chase 0 dog 1 001 @ 00 v 0000 01 + 08 00 | follow\n",
    "data.adj": "00001742 00 s 02 galore(ip) 0 abounding 0 001 & 00 a 0000 | abundant\n"
    "00001743 00 a 0a a1 0 a2 0 a3 0 a4 0 a5 0 a6 0 a7 0 a8 0 a9 0 a10 0 000 | hex count\n",
    "data.adv": "00001744 02 r 01 alone 0 000 | no synonym\n",
}


@pytest.fixture
def wordnet(tmp_path):
    for name, text in DATA.items():
        (tmp_path / name).write_text(LICENCE + text)
    return tmp_path


def test_wordnet_reader(wordnet):
    synonyms = read_synonyms(str(wordnet))
    assert synonyms["dog"] == ("chase", "hound")
    assert synonyms["galore"] == ("abounding",)
    assert len(synonyms["a10"]) == 9
    assert "alone" not in synonyms
    assert not any("_" in word for word in synonyms)


def test_wordnet_replaces_the_datasets_synonyms(wordnet):
    eda = bound(wordnet=str(wordnet))
    assert "hound" in eda.synonyms["dog"]
    assert "red" not in eda.synonyms


def test_wordnet_errors(tmp_path, wordnet):
    with pytest.raises(FileNotFoundError, match=r"data\.adv.*must hold data\.noun"):
        EDA(wordnet=str(tmp_path / "nowhere")).bind(None)
    (wordnet / DATA_FILES[0]).write_text("not wordnet\n")
    with pytest.raises(ValueError, match=r"data\.noun, line 1"):
        read_synonyms.__wrapped__(str(wordnet))
