"""A tokenizer.json as the toolbox wants it: words first, then start, end and mask."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

MASKS = ("[MASK]", "<mask>")


class FolderTokenizer:
    """Turns a caption into ids of the tokenizer in a folder, renumbered.

    Views draw random words below the start token's id (``MaskTokens``), so words come first here,
    then start, end and mask, then what else is special (padding ...). ``order[id]`` is the model's
    own id. A start, end or mask that is spelt out in a caption never becomes one.

    Args:
        folder: holds ``tokenizer.json``.
        context_length: longest result of ``encode``, start and end included.
        frame: the model's ids of start and end, for a tokenizer that adds none.

    Attributes:
        vocab_size: ids in all; a tokenizer without a mask token gets one more.

    Raises:
        FileNotFoundError: there is no such file; nothing is downloaded.
        ValueError: it is not a tokenizer, or has no start and end.
    """

    pad = 0

    def __init__(
        self, folder: str | Path, context_length: int, frame: tuple[int | None, int | None]
    ) -> None:
        self.file, self.context_length = str(Path(folder) / "tokenizer.json"), context_length
        if not Path(self.file).is_file():
            raise FileNotFoundError(
                f"{self.file}: no such file; save the model's fast tokenizer into the folder"
            )
        tokenizer = _read(self.file)
        added: list[int] = tokenizer.encode("").ids
        ends = added if len(added) == 2 else [i for i in frame if i is not None]
        if len(ends) != 2:
            raise ValueError(
                f"{self.file} puts no start and no end around a text, and config.json names no "
                "bos_token_id and eos_token_id; add them there"
            )
        taken = tokenizer.get_vocab(with_added_tokens=True).values()
        known = [tokenizer.token_to_id(name) for name in MASKS]
        mask = next((i for i in known if i is not None), max(taken) + 1)
        named = tokenizer.get_added_tokens_decoder().items()
        special = dict.fromkeys([*ends, mask, *(i for i, token in named if token.special)])
        self.vocab_size = max(*taken, mask) + 1
        words = np.setdiff1d(np.arange(self.vocab_size), list(special))
        self.order = np.array([*words, *special])
        self.rank = np.argsort(self.order)
        self.sot, self.eot, self.mask = (int(self.rank[i]) for i in (*ends, mask))

    def encode(self, text: str) -> np.ndarray:
        """Returns int64 ids ``[L]``: start, words, end; an over-long text loses words."""
        ids = self.rank[_read(self.file).encode(text, add_special_tokens=False).ids]
        words = ids[(ids < self.sot) | (ids > self.mask)]  # some vocabularies spell special tokens
        return np.array([self.sot, *words[: self.context_length - 2], self.eot], dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text between start and end, masks included."""
        inner = list(ids)[1:]
        inner = inner[: inner.index(self.eot)] if self.eot in inner else inner
        return _read(self.file).decode(self.order[inner].tolist(), skip_special_tokens=False)


@lru_cache(maxsize=4)
def _read(file: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(file)
    except Exception as error:  # the package raises nothing narrower
        raise ValueError(f"{file} is not a tokenizer of the tokenizers package: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # as if they were text
    return tokenizer
