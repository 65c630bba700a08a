"""Synonyms from a local copy of the WordNet database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

DATA_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")


@lru_cache(maxsize=2)
def read_synonyms(folder: str) -> Mapping[str, tuple[str, ...]]:
    """Reads which single words share a synset, in any sense and part of speech.

    The ``index.*`` files of WordNet are not needed: the data files hold every word of every synset
    (format: the manual page wndb(5WN)).

    Args:
        folder: the ``dict`` folder of WordNet 3.x.

    Returns:
        Lower-case word to its synonyms, sorted, without the word itself.

    Raises:
        FileNotFoundError: the folder or a file in it is missing.
        ValueError: a file is not in WordNet's format.
    """
    files = [Path(folder) / name for name in DATA_FILES]
    if missing := [path.name for path in files if not path.is_file()]:
        raise FileNotFoundError(
            f"{folder}: {', '.join(missing)} not found; the folder must hold "
            f"{', '.join(DATA_FILES)}, as the `dict` folder of WordNet 3.x does"
        )
    synonyms: dict[str, set[str]] = {}
    for path in files:
        for words in _synsets(path):
            for word in words:
                synonyms.setdefault(word, set()).update(words)
    return {
        word: tuple(sorted(others - {word})) for word, others in synonyms.items() if len(others) > 1
    }


def _synsets(path: Path) -> Iterator[list[str]]:
    """Yields the single words of each synset, lower-case."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.startswith("  "):
                continue  # the licence, at the top
            # offset, file, type, word count in hex, then pairs of word and sense number
            fields = line.split(" ")
            try:
                count = int(fields[3], 16)
            except (IndexError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: not WordNet's data format") from error
            # An adjective may end in a note on its position: "galore(ip)".
            words = (field.split("(")[0].lower() for field in fields[4 : 4 + 2 * count : 2])
            yield [word for word in words if "_" not in word]
