"""CLIP's byte-pair tokenizer: the ids of OpenAI's CLIP and open_clip, then one mask token."""

from __future__ import annotations

import gzip
import html
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import ftfy
import numpy as np
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

VOCABULARY = Path(__file__).parent / "data" / "bpe_simple_vocab_16e6.txt.gz"
LETTERS = 512  # each byte, inside a word and at its end
SPECIALS = 3  # start, end, mask
# Characters of a text that are looked at: no context is so long, but a web page is.
LONGEST = 10_000
CLIP_VOCABULARY = 49409  # CLIP uses 48,894 of the 262,145 merges in the file, and has no mask
END_OF_WORD = "</w>"

# Alternatives in CLIP's order; what none matches is dropped: white space and, by a quirk of the
# `regex` package that CLIP compiles them with (IGNORECASE), U+0345.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}\x{345}]+"


class CLIPTokenizer:
    """Turns a caption into CLIP's token ids.

    Ids equal those of open_clip's ``SimpleTokenizer``, except that a literal
    ``<start_of_text>`` or ``<end_of_text>`` in a caption stays text: there it becomes the special
    id, and a tower that pools at the first EOT stops early. Letters that came after Unicode 16 may
    be taken for symbols, since the `tokenizers` package does not know them yet. The mask token
    comes after CLIP's 49,408 ids, so that OpenAI's embedding rows map one to one.

    An instance holds its context length alone; vocabulary and cache belong to the process.
    It pickles in a few bytes and is safe in forked workers.

    Args:
        context_length: longest result of ``encode``, SOT and EOT included.
        vocab_size: ids in all; fewer than CLIP's keep its most frequent merges alone, so that a
            small tower is not mostly embedding. Rare words are then spelled in more pieces.

    Example:
        >>> CLIPTokenizer().encode("a photo of a cat").tolist()
        [49406, 320, 1125, 539, 320, 2368, 49407]
    """

    pad = 0

    def __init__(self, context_length: int = 77, vocab_size: int = CLIP_VOCABULARY) -> None:
        if context_length < 3:
            raise ValueError(
                f"context_length={context_length}: SOT, EOT and a word between them need at least 3"
            )
        if not LETTERS + SPECIALS <= vocab_size <= CLIP_VOCABULARY:
            raise ValueError(
                f"vocab_size={vocab_size}: it lies between {LETTERS + SPECIALS} (letters alone) "
                f"and CLIP's {CLIP_VOCABULARY}"
            )
        self.context_length, self.vocab_size = context_length, vocab_size
        self.words = vocab_size - SPECIALS
        self.sot, self.eot, self.mask = range(self.words, vocab_size)

    def encode(self, text: str) -> np.ndarray:
        """Returns int64 ids ``[L]``: SOT, words, EOT; an over-long text loses words, never EOT."""
        ids = _word_ids(text[:LONGEST], self.words)[: self.context_length - 2]
        return np.array([self.sot, *ids, self.eot], dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the cleaned text up to the first EOT; a masked word reads ``<mask>``."""
        tokens = _vocabulary(self.words)
        text = bytearray()
        for token_id in map(int, ids):
            if token_id == self.eot:
                break
            if token_id == self.mask:
                text += b"<mask> "
            elif token_id != self.sot:
                text += tokens[token_id]
        return text.decode("utf-8", errors="replace").strip()


def clean(text: str) -> str:
    """Repairs mojibake, resolves HTML entities (twice, as CLIP does), joins white space, lowers."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@lru_cache(maxsize=16384)
def _word_ids(text: str, words: int) -> tuple[int, ...]:
    """Ids of the words alone; cached, because captions and prompts repeat."""
    # `encode`, never `encode_batch`: only the batch starts threads, and a fork after those warns.
    return tuple(_bpe(words).encode(clean(text), add_special_tokens=False).ids)


@lru_cache(maxsize=2)
def _bpe(words: int) -> Tokenizer:
    symbols, merges = _read_vocabulary(words)
    tokenizer = Tokenizer(
        models.BPE(
            vocab={symbol: index for index, symbol in enumerate(symbols)},
            merges=merges,
            end_of_word_suffix=END_OF_WORD,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


@lru_cache(maxsize=2)
def _vocabulary(words: int) -> list[bytes]:
    """The bytes that each word id stands for; a space ends a word."""
    byte_of = {symbol: byte for byte, symbol in _byte_symbols().items()}
    symbols, _ = _read_vocabulary(words)
    return [
        bytes(byte_of[char] for char in symbol.removesuffix(END_OF_WORD))
        + b" " * symbol.endswith(END_OF_WORD)
        for symbol in symbols
    ]


def _read_vocabulary(words: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the first ``words`` symbols in the order of their ids, and merges by rank."""
    if not VOCABULARY.is_file():
        raise FileNotFoundError(
            f"{VOCABULARY}: CLIP's vocabulary is missing; reinstall the toolbox"
        )
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8").split("\n")
    merges = []
    for line in lines[1 : words - LETTERS + 1]:  # the first line names the format's version
        left, right = line.split()
        merges.append((left, right))
    letters = list(_byte_symbols().values())
    symbols = letters + [letter + END_OF_WORD for letter in letters]
    return symbols + [left + right for left, right in merges], merges


def _byte_symbols() -> dict[int, str]:
    """Each byte's printable stand-in, in vocabulary order: the bytes that print, then the rest."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + rank) for rank, byte in enumerate(others)
    }
