"""Image-text pairs listed in one file: CSV, TSV or JSON lines."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from webssl_plugins.datasets._common import FIRST, MAX_TEXT, PackedStrings, below, check_images
from webssl_toolbox.data.image import read_image
from webssl_toolbox.data.sample import Sample, UnreadableSample

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",  # DeCLIP's lists are JSON lines by this name; one JSON array is refused
}
MAX_CLASSES = 1_000_000
_CHUNK = 1 << 26

Row = Mapping[str, Any]


class _Table(Protocol):
    """Rows that are looked up by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


class ImageTextList:
    """Images with captions, listed in a CSV, TSV or JSON-lines file.

    Memory stays small at web scale: of JSON lines only the byte offsets are kept (16 bytes a row),
    of a CSV the columns that are used, packed. The file is read at the first use, not when the
    dataset is built. Captions are those of all caption columns in turn, without empty ones; in JSON
    lines a caption may be a list, best first. DeCLIP's YFCC15M list works as it is:
    ``ImageTextList('yfcc15m_clean_open_data.json', root, image='filename')``.

    Args:
        file: the list; a CSV or TSV names its columns in the first line, and quotes as CSV does.
        root: the folder that the images lie in, below which the list can name no other; with None,
            its paths are absolute or start from the working directory, and may name any image.
        image: column of the image path; None for captions without images.
        caption: column of the caption, or several, best first: ``('title', 'description')``.
        label: column of the label: class indices if every value is an integer, else class names,
            numbered in sorted order. A row without one has label -1.
        format: ``'csv'``, ``'tsv'`` or ``'jsonl'``; by the suffix of ``file`` if ``None``.

    Raises:
        ValueError: an unknown format; at first use, a missing column or a file that is malformed.
        FileNotFoundError: at first use, if ``file`` or ``root`` does not exist, or ``root`` holds
            none of the first images.
    """

    synonyms: Mapping[str, Sequence[str]] = {}

    def __init__(
        self,
        file: str,
        root: str | None = None,
        image: str | None = "image",
        caption: str | Sequence[str] = "caption",
        label: str | None = None,
        format: str | None = None,
    ) -> None:
        suffix = Path(file).suffix.lower()
        format = format or FORMATS.get(suffix, suffix)
        if format not in FORMATS.values():
            raise ValueError(
                f"ImageTextList: unknown format {format!r} of {file}; give format='csv', 'tsv' or "
                "'jsonl'"
            )
        self.file = file
        self.root = root
        self.image = image
        self.captions = (caption,) if isinstance(caption, str) else tuple(caption)
        self.label = label
        self.format = format

    @cached_property
    def _index(self) -> tuple[_Table, np.ndarray | None, tuple[str, ...]]:
        """The rows, their labels and the class names; asking for the length builds it."""
        if not os.path.isfile(self.file):
            raise FileNotFoundError(
                f"{self.file}: no such file; it must list images and captions as {self.format}"
            )
        columns = [name for name in (self.image, *self.captions, self.label) if name is not None]
        rows: _Table
        if self.format == "jsonl":
            rows = _JsonLines(self.file, columns)
        else:
            rows = _Csv(self.file, columns, "\t" if self.format == "tsv" else ",")
        if not len(rows):
            raise ValueError(f"{self.file}: holds no rows, so there is nothing to train on")
        if self.image is not None:
            check_images(self.file, self.root or ".", list(_first_paths(rows, self.image)))
        if self.label is None:
            return rows, None, ()
        return rows, *_number_labels(list(_label_names(rows, self.label)), self.file)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order; empty without a label column."""
        return self._index[2]

    def __len__(self) -> int:
        return len(self._index[0])

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Reads one pair; ``rng`` is not used: which caption is taken is the view's choice."""
        rows, labels, _ = self._index
        row = rows[index]
        label = -1 if labels is None else int(labels[index])
        cells = [row.get(column) for column in self.captions]
        found = [text for cell in cells for text in (cell if isinstance(cell, list) else [cell])]
        texts = tuple(text for text in found if isinstance(text, str) and text.strip())
        if not texts:
            columns = ", ".join(map(repr, self.captions))
            why = f"row {index} has no text in {columns}"
            raise UnreadableSample(f"{self.file}: {why}", "no caption")
        if self.image is None:
            return Sample(None, texts, label, f"row {index}")
        path = row.get(self.image)
        if not isinstance(path, str) or not path:
            raise UnreadableSample(f"{self.file}: row {index} has no {self.image!r}", "missing")
        return Sample(read_image(below(self.root, path)), texts, label, path)


class _JsonLines:
    """One JSON object a line, read from the file when asked for."""

    def __init__(self, file: str, columns: Sequence[str]) -> None:
        self._file = file
        with open(file, "rb") as stream:
            self._start, self._stop = _line_spans(stream.fileno())
        if len(self):
            try:
                first = self[0]
            except UnreadableSample as error:
                raise ValueError(
                    f"{file}: the first line is not one JSON object; write one object a line "
                    f"(from a JSON array: jq -c '.[]'), of {MAX_TEXT:,} bytes or fewer"
                ) from error
            _check_columns(file, columns, list(first))

    def __len__(self) -> int:
        return len(self._start)

    def __getitem__(self, index: int) -> Row:
        start, stop = int(self._start[index]), int(self._stop[index])
        if stop - start > MAX_TEXT:
            raise UnreadableSample(
                f"{self._file}: row {index} has {stop - start:,} bytes, more than {MAX_TEXT:,}"
            )
        # Opened anew: an open file would be shared, position and all, by forked workers.
        with open(self._file, "rb") as stream:
            stream.seek(start)
            line = stream.read(stop - start)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = f"row {index} is not JSON ({error})"
            raise UnreadableSample(f"{self._file}: {why}", "broken") from error
        if not isinstance(row, dict):
            raise UnreadableSample(f"{self._file}: row {index} is not a JSON object", "broken")
        return row


def _line_spans(descriptor: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the start and stop offsets of the lines that hold more than an empty object."""
    breaks, size = [np.array([-1])], 0
    while chunk := os.pread(descriptor, _CHUNK, size):
        breaks.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + size)
        size += len(chunk)
    edges = np.concatenate([*breaks, np.array([size])])
    start, stop = edges[:-1] + 1, edges[1:]
    long_enough = stop - start > 2
    return start[long_enough], stop[long_enough]


class _Csv:
    """The used columns of a CSV file, packed."""

    def __init__(self, file: str, columns: Sequence[str], delimiter: str) -> None:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(_lines(stream, file), delimiter=delimiter, strict=True)
            try:
                header = next(reader, [])
                if len(header) == 1 and delimiter not in header[0] and len(columns) > 1:
                    raise ValueError(
                        f"{file}: no {delimiter!r} in its first line, {header[0]!r:.100}; "
                        "fields are separated by commas, or by tabs with format='tsv'"
                    )
                _check_columns(file, columns, header)
                places = [header.index(name) for name in columns]
                cells = PackedStrings(_cells(reader, places, len(header)))
            except UnicodeDecodeError as error:
                raise ValueError(f"{file}: {error}; check that it is UTF-8") from error
            except csv.Error as error:
                raise ValueError(
                    f"{file}, line {reader.line_num}: {error}; check the quotes around there"
                ) from error
            except _WidthError as error:
                raise ValueError(
                    f"{file}, line {reader.line_num}: {error} columns, the header has "
                    f"{len(header)}; quote a field that holds the delimiter"
                ) from error
        self._columns = columns
        self._cells = cells

    def __len__(self) -> int:
        return len(self._cells) // len(self._columns)

    def __getitem__(self, index: int) -> Row:
        first = index * len(self._columns)
        return {name: self._cells[first + place] for place, name in enumerate(self._columns)}


def _lines(stream: TextIO, file: str) -> Iterator[str]:
    """Yields the lines of a file, none of which fills the memory."""
    while line := stream.readline(MAX_TEXT):
        if len(line) == MAX_TEXT:
            raise ValueError(f"{file}: a line has more than {MAX_TEXT:,} characters; take it out")
        yield line


class _WidthError(ValueError):
    """A row of another width than the header; the message is the width."""


def _cells(reader: Iterator[list[str]], places: Sequence[int], width: int) -> Iterator[str]:
    for row in reader:
        if not row:
            continue  # a blank line
        if len(row) != width:
            raise _WidthError(len(row))
        for place in places:
            yield row[place]


def _check_columns(file: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    if {"images", "annotations"} <= set(found):
        raise ValueError(
            f"{file}: not a list of pairs but one COCO object; use type='CocoCaptions'"
        )
    for name in wanted:
        if name not in found:
            near = get_close_matches(name, found, n=1)
            shown = ", ".join(map(repr, found[:10])) + ", ..." * (len(found) > 10)
            raise ValueError(
                f"{file}: no column {name!r}; it has {shown or 'none'}; "
                + (f"did you mean {near[0]!r}?" if near else "name its columns: image=, caption=")
            )


def _first_paths(rows: _Table, column: str) -> Iterator[str]:
    """Yields the image paths of the first rows; bad rows are reported when they are loaded."""
    for index in range(min(FIRST, len(rows))):
        with suppress(UnreadableSample):
            if isinstance(path := rows[index].get(column), str):
                yield path


def _label_names(rows: _Table, column: str) -> Iterator[str]:
    """Yields the label of each row as text, empty where there is none."""
    for index in range(len(rows)):
        try:
            name = rows[index].get(column)
        except UnreadableSample:
            name = None  # one bad row: reported when it is loaded
        yield "" if name is None else str(name)


def _number_labels(names: Sequence[str], file: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns int64 labels, -1 for an empty name, and the class names in label order."""
    known = sorted(set(names) - {""})
    try:
        numbers = {name: int(name) for name in known}
    except ValueError:
        numbers = {name: number for number, name in enumerate(known)}
        classes = tuple(known)
    else:
        highest = max(numbers.values(), default=-1)
        if highest >= MAX_CLASSES:
            raise ValueError(f"{file}: label {highest}; integer labels must be class indices")
        classes = tuple(str(number) for number in range(highest + 1))
    return np.array([numbers.get(name, -1) for name in names], dtype=np.int64), classes
