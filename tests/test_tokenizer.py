"""CLIP's tokenizer against open_clip's ids, and a slow reference, written from the algorithm."""

import gzip
import html
import json
import multiprocessing
import pickle
import random
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path

import ftfy
import pytest

from webssl_plugins.backbones._clip_bpe import VOCABULARY, CLIPTokenizer

KNOWN = {
    "": [],
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "A  PHOTO\tof a\ncat ": [320, 1125, 539, 320, 2368],
    "hello world!": [3306, 1002, 256],
    "a photo of a dog.": [320, 1125, 539, 320, 1929, 269],
    "x<end_of_text>y": [343, 283, 806, 318, 539, 318, 4160, 285, 344],
}
HARD = [
    "it's we'RE they'll I'd I'm you've can't 'tis rock'n'roll",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m \u00df \u1e9e \u0130stanbul \u03a3\u03c2",
    "don\u2019t \u201cquote\u201d \u2014 dash\u2026 \ufb01sh \u017f '\u017f",
    "mojibake: schÃ¶n â€œtestâ€\u009d doesnâ€™t",
    "&lt;b&gt; &amp;amp; &amp;amp;amp;lt; &eacute; &#x27;s &#39;s &nbsp;x",
    "\u65e5\u672c\u8a9e\u306e\u5199\u771f",
    "\ud55c\uad6d\uc5b4 \u4e2d\u6587\uff0c\u5168\u89d2\uff21\uff22",
    "\U0001f600\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1e9\U0001f1ea \u2764\ufe0f x\U0001f600y",
    "0123 3.14 \u0663\u0664 \u2167 \u00bd 10\u00b2 a1b2",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea",
    "tabs\tand\u00a0spaces\u3000and\u2028lines\x0b\x1c.",
    "<start_of_text><|startoftext|></w> <mask> [MASK]",
    "\ud800 lone surrogate",
    "http://www.example.com/a_b?c=%20d&e=f#g user@mail.org #hashtag",
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 3,
    "word " * 200,
    "!" * 300,
    "\u200b\ufeff zero width\u0345",
]


@cache
def reference_vocabulary():
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    hidden = [b for b in range(256) if b not in printable]
    symbol = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    letters = [symbol[b] for b in printable + hidden]
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode().split("\n")
    pairs = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in pairs]
    ids = {token: i for i, token in enumerate(tokens)}
    return symbol, ids, {pair: rank for rank, pair in enumerate(pairs)}


def reference_words(text):
    """Splits as CLIP's regular expression does, without the `regex` package."""

    def kind(char):
        if char.isspace() or char == "\u0345":
            return "space"
        return {"L": "letter", "N": "number"}.get(unicodedata.category(char)[0], "other")

    position = 0
    while position < len(text):
        folded = text[position : position + 3].replace("\u017f", "s")
        ending = next(
            (e for e in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"] if folded.startswith(e)), ""
        )
        stop = position + max(len(ending), 1)
        this = kind(text[position])
        if not ending and this in ("letter", "other"):
            while stop < len(text) and kind(text[stop]) == this:
                stop += 1
        if this != "space":
            yield text[position:stop]
        position = stop


def reference_ids(text):
    symbol, ids, rank = reference_vocabulary()
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    result = []
    for word in reference_words(" ".join(text.split()).lower()):
        parts = [symbol[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: rank.get(pair, len(rank)))
            if best not in rank:
                break
            merged, i = [], 0
            while i < len(parts):
                if tuple(parts[i : i + 2]) == best:
                    merged.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            parts = merged
        result += [ids[part] for part in parts]
    return result


def random_texts(count):
    draw = random.Random(0)
    alphabets = [
        list("abcdefghijklmnopqrstuvwxyz   '.,-0123456789"),
        list("'sStTrReEvVmMlLdD &;#<>/x\u017f\u2019"),
        [chr(code) for code in range(0x20, 0x250)],
        [
            chr(code)
            for code in (*range(0x370, 0x600), *range(0x4E00, 0x4F00), *range(0x1F600, 0x1F640))
        ],
    ]
    for index in range(count):
        yield "".join(draw.choices(alphabets[index % 4], k=draw.randint(1, 60)))


@pytest.mark.parametrize("text", KNOWN)
def test_known_ids(text):
    assert CLIPTokenizer().encode(text).tolist() == [49406, *KNOWN[text], 49407]


def test_ids_equal_the_reference():
    tokenizer = CLIPTokenizer(context_length=10_000)
    for text in [*HARD, *random_texts(284)]:
        assert tokenizer.encode(text).tolist() == [49406, *reference_ids(text), 49407], repr(text)


def test_ids_equal_open_clips():
    """On strings of all kinds; ``make_open_clip_ids.py`` beside this file wrote them."""
    file = Path(__file__).parent / "data" / "open_clip_ids.json.gz"
    stored = json.loads(gzip.decompress(file.read_bytes()))
    tokenizer = CLIPTokenizer()
    assert len(set(stored["texts"])) == 1000
    assert sum(len(ids) == tokenizer.context_length for ids in stored["ids"]) > 100  # truncated
    for text, ids in zip(stored["texts"], stored["ids"], strict=True):
        assert tokenizer.encode(text).tolist() == ids, repr(text)


def test_ids_around_clip():
    tokenizer = CLIPTokenizer()
    _, ids, _ = reference_vocabulary()
    assert (tokenizer.sot, tokenizer.eot, tokenizer.mask) == (len(ids), len(ids) + 1, len(ids) + 2)
    assert tokenizer.vocab_size == tokenizer.mask + 1
    assert tokenizer.encode("a cat").dtype == "int64"


def test_truncation_keeps_eot():
    ids = CLIPTokenizer(context_length=8).encode("one two three four five six seven eight")
    assert len(ids) == 8
    assert ids[-1] == CLIPTokenizer().eot
    assert (
        ids[:-1].tolist()
        == CLIPTokenizer().encode("one two three four five six seven")[:7].tolist()
    )
    with pytest.raises(ValueError, match="context_length=2"):
        CLIPTokenizer(context_length=2)


def test_encodes_share_no_memory():
    tokenizer = CLIPTokenizer()
    tokenizer.encode("a cat")[1] = tokenizer.mask
    assert tokenizer.mask not in tokenizer.encode("a cat")


@pytest.mark.parametrize("text", ["a photo of a cat", "\u65e5\u672c \U0001f600 caf\u00e9"])
def test_decode_inverts(text):
    tokenizer = CLIPTokenizer()
    ids = tokenizer.encode(text).tolist()
    assert tokenizer.decode([*ids, tokenizer.pad, tokenizer.pad]) == text
    assert tokenizer.decode([tokenizer.sot, tokenizer.mask, *ids[1:]]) == "<mask> " + text


def test_forked_worker_is_silent(capfd):
    tokenizer = CLIPTokenizer()
    expected = tokenizer.encode("a photo of a cat").tolist()
    assert len(pickle.dumps(tokenizer)) < 200
    with multiprocessing.get_context("fork").Pool(1) as pool:
        ids = pool.apply(tokenizer.encode, ("a photo of a Cat",))
    assert ids.tolist() == expected
    assert capfd.readouterr().err == ""


def test_a_smaller_vocabulary_spells_rare_words_in_more_pieces():
    small, full = CLIPTokenizer(vocab_size=4096), CLIPTokenizer()
    text = "a photo of a hippopotamus"
    assert small.decode(small.encode(text)) == full.decode(full.encode(text)) == text
    assert len(small.encode(text)) > len(full.encode(text))
    assert max(small.encode(text)) == small.eot == 4094 and small.mask == 4095
    with pytest.raises(ValueError, match="vocab_size=99"):
        CLIPTokenizer(vocab_size=99)
