"""Encoded rows in files, so that a killed command goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from webssl_toolbox.evaluation.pieces import Piece

logger = logging.getLogger("webssl_toolbox")


class Shards(MutableMapping[int, Piece]):
    """The pieces of a dataset by their first row, each a safetensors file with its notes.

    Args:
        folder: holds nothing else, and nothing of another dataset or model: see ``key``.
        count: rows of the dataset, for what is logged.
        name: of what is encoded.
    """

    suffix = "safetensors"

    def __init__(self, folder: Path, count: int, name: str) -> None:
        self.folder, self.count, self.name = folder, count, name

    def __getitem__(self, first: int) -> Piece:
        file = self.file(first)
        try:
            return self.read(file)
        except (SafetensorError, OSError, TypeError, LookupError, ValueError) as error:
            raise ValueError(f"{file} is damaged ({error}); delete it, and start again") from error

    def __setitem__(self, first: int, piece: Piece) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.file(first)
        hidden = file.with_name(f".{file.name}")
        self.save(piece, hidden)
        publish(hidden, file)
        done = first + len(piece.notes)
        logger.info("%s: %s of %s", self.name, f"{done:,}", f"{self.count:,}")

    def __delitem__(self, first: int) -> None:
        self.file(first).unlink()

    def __iter__(self) -> Iterator[int]:
        for path in self.folder.glob(f"rows_*.{self.suffix}"):
            yield int(path.stem.removeprefix("rows_"))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def file(self, first: int) -> Path:
        """Returns the place of the piece that begins with row ``first``."""
        return self.folder / f"rows_{first:09d}.{self.suffix}"

    def read(self, file: Path) -> Piece:
        """Reads a piece."""
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return Piece(tensors, json.loads(opened.metadata()["notes"]))

    def save(self, piece: Piece, file: Path) -> None:
        """Writes a piece."""
        save_file(piece.tensors, file, {"notes": json.dumps(piece.notes)})


def key(*identity: Any) -> str:
    """Returns a name for what is determined by ``identity``, which is JSON data or made of it."""
    text = json.dumps(identity, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write(file: Path, text: str) -> None:
    """Writes a file that is there in full or not at all, whatever ends the process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    hidden = file.with_name(f".{file.name}")
    hidden.write_text(text, encoding="utf-8")
    publish(hidden, file)


def publish(hidden: Path, file: Path) -> None:
    """Gives a complete file its name, once the disk has it."""
    with hidden.open("rb") as opened:
        os.fsync(opened.fileno())
    hidden.replace(file)
