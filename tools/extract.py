"""Embeds images or captions: ``python tools/extract.py MODEL --images FOLDER --out FOLDER``.

Rows are written in pieces, each with the paths of its images. Killed and started again, the same
command goes on; under torchrun, ranks share the work.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from _models import open_model
from _shards import Shards, publish, write
from _terminal import fail, log_of_first_rank
from torch import Tensor

from webssl_toolbox import dist
from webssl_toolbox.data.collate import Tokens
from webssl_toolbox.data.image import read_image
from webssl_toolbox.data.rng import sample_rng
from webssl_toolbox.data.sample import Dataset, Sample, UnreadableSample
from webssl_toolbox.encoder import Encoder
from webssl_toolbox.evaluation.pieces import Piece, in_pieces
from webssl_toolbox.registry import DATASETS
from webssl_toolbox.towers import Tower, encode_batch

logger = logging.getLogger("webssl_toolbox")


class Listed:
    """The images that a file names, one a line, relative to its folder; or its lines as captions.

    Args:
        file: UTF-8 text; blank lines are left out.
        captions: whether lines are captions.
    """

    classes: Sequence[str] = ()

    def __init__(self, file: Path, captions: bool) -> None:
        self.file, self.captions = file, captions
        try:
            lines = file.read_text("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{file} is no list in UTF-8; give a folder, or a list of files"
            ) from error
        self.lines = [line.rstrip("\r") for line in lines if line.strip()]
        if not self.lines:
            raise ValueError(f"{file} names nothing: write a file or a caption into each line")

    def __len__(self) -> int:
        return len(self.lines)

    def load(self, index: int, rng: Any) -> Sample:
        line = self.lines[index]
        if self.captions:
            return Sample(None, (line,), key=line)
        return Sample(read_image(self.file.parent / line), key=line)

    def identity(self) -> dict[str, Any]:
        """Returns what tells this list, and the files that it names, from others."""
        if self.captions:
            return {"captions": str(self.file), "sha256": _digest(self.lines)}
        files = [self.file.parent / line for line in self.lines]
        return {"list": str(self.file), "sha256": _digest(map(_described, files))}


class Parquet(Shards):
    """Pieces as Parquet: a column of paths, and one of lists of numbers for each tensor."""

    suffix = "parquet"

    def read(self, file: Path) -> Piece:
        from pyarrow import parquet

        table = parquet.read_table(file)
        tensors = {
            name: torch.from_numpy(table[name].combine_chunks().flatten().to_numpy().copy())
            for name in table.column_names
            if name != "path"
        }
        rows = {name: values.view(table.num_rows, -1) for name, values in tensors.items()}
        return Piece(rows, json.loads(table.schema.metadata[b"notes"]))

    def save(self, piece: Piece, file: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        columns: dict[str, Any] = {"path": [path for _, path, *reason in piece.notes if not reason]}
        for name, rows in piece.tensors.items():
            values = pyarrow.array(rows.flatten().numpy())
            columns[name] = pyarrow.FixedSizeListArray.from_arrays(values, rows.shape[1])
        notes = {"notes": json.dumps(piece.notes)}
        parquet.write_table(pyarrow.table(columns).replace_schema_metadata(notes), file)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _described(file: Path) -> str:
    """Returns the name and the size of a file: another image hardly has the same."""
    return f"{file} {file.stat().st_size if file.exists() else None}"


def find_data(images: str) -> tuple[Dataset, Any]:
    """Returns the dataset, and what tells it from others.

    Args:
        images: a folder, a text file that lists files, or a dataset config.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: a config that is none.
    """
    if images.lstrip().startswith("{"):
        try:
            cfg: dict[str, Any] = ast.literal_eval(images)
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"--images {images!r} is no dataset config: {error}") from error
        return DATASETS.create(cfg, "--images"), cfg
    if Path(images).is_file():
        listed = Listed(Path(images), captions=False)
        return listed, listed.identity()
    if not Path(images).is_dir():
        raise FileNotFoundError(f"--images: there is no folder and no file {images!r}")
    cfg = {"type": "ImageFolder", "root": images}
    folder: Any = DATASETS.create(cfg, "--images")
    described = (_described(Path(images, path)) for path in folder.paths)
    return folder, cfg | {"sha256": _digest(described)}


class Embedder:
    """Runs one tower of a model on the rows of a dataset.

    Args:
        model: which has the tower.
        tower: its name.
        layers: blocks or stages whose pooled output is wanted; none for the tower's own output, and
            its embedding in the joint space where there is one.
        dataset: images, or captions.
        captions: which of the two.
    """

    def __init__(
        self, model: Encoder, tower: str, layers: Sequence[int], dataset: Dataset, captions: bool
    ) -> None:
        self.model, self.name, self.layers = model, tower, layers
        self.tower: Tower = model.tower(tower)
        if captions and self.tower.tokenizer is None:
            raise ValueError(f"--tower {tower} reads images, but captions were given by --texts")
        if not captions and self.tower.input_size is None:
            raise ValueError(f"--tower {tower} reads no images; give captions by --texts FILE")
        self.dataset, self.captions = dataset, captions

    def __call__(self, rows: range) -> Piece:
        """Returns ``[R, width]`` of each kind, and ``[row, path]``, or ``[row, None, reason]``."""
        samples, notes = [], []
        for i in rows:
            try:
                sample = self.dataset.load(i, sample_rng(0, 0, i, "test"))
            except UnreadableSample as error:
                notes.append([i, None, str(error)])
                continue
            samples.append(sample)
            notes.append([i, sample.key])
        if not samples:
            return Piece({}, notes)
        with self.model.evaluating():
            found = self._texts(samples) if self.captions else self._images(samples)
        return Piece({name: x.float().cpu().contiguous() for name, x in found.items()}, notes)

    def _images(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        images = self.model.prepare(samples)
        if not self.layers:
            return self._embedded(encode_batch(self.tower, images).pooled)
        found = self.tower.layers(images, self.layers)
        return {f"layer_{i}": layer.pooled for i, layer in zip(self.layers, found, strict=True)}

    def _texts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        if self.layers:
            raise ValueError("--layer is for towers of images")
        ids = [Tokens(self.tower.tokenizer.encode(sample.captions[0]), 0) for sample in samples]
        batch = Tokens.collate("text", ids)
        rows = batch["text"].to(self.model.device)
        encoding = encode_batch(self.tower, rows, batch["text.length"])
        return self._embedded(encoding.pooled)

    def _embedded(self, pooled: Tensor) -> dict[str, Tensor]:
        spaces, name = self.model.model.spaces, self.model.space
        if name not in spaces or not spaces[name].holds(self.name):  # type: ignore[operator]
            return {"features": pooled}
        return {"features": pooled, "embeddings": spaces[name](pooled, self.name)}


def claim(folder: Path, identity: Any) -> None:
    """Refuses a folder that holds what another model made, or of other images.

    Raises:
        ValueError: it does, or ranks do not find the same model and images.
    """
    file, text = folder / "origin.json", json.dumps(identity, indent=2, sort_keys=True) + "\n"
    there = file.read_text("utf-8") if file.exists() else None
    found = dist.meet(str(file), [there, text])
    if any(rank[1] != found[0][1] for rank in found):
        raise ValueError(
            f"{folder}: ranks find different images or models; start when they are whole"
        )
    if found[0][0] not in (None, text):
        raise ValueError(
            f"{folder} holds embeddings of another model, of other images or with other options, "
            "see its origin.json; give another --out, or delete it"
        )
    if dist.rank() == 0:
        write(file, text)


def index(folder: Path, pieces: Iterator[Piece], store: Shards) -> tuple[int, int]:
    """Writes ``index.csv``: which row of which file is which image; returns rows and failures."""
    hidden, first, rows, failed = folder / ".index.csv", 0, 0, 0
    with hidden.open("w", encoding="utf-8", errors="surrogateescape", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(["path", "file", "row"])
        for piece in pieces:
            row, file = 0, store.file(first).name
            for _, path, *reasons in piece.notes:
                if reasons:
                    logger.warning("left out: %s (deleting %s tries again)", *reasons, file)
                else:
                    table.writerow([path, file, row])
                    row += 1
            first, rows, failed = (
                first + len(piece.notes),
                rows + row,
                failed + len(piece.notes) - row,
            )
    publish(hidden, folder / "index.csv")
    return rows, failed


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Embeds images or captions with any tower.")
    parser.add_argument("model", help="a work dir, one step_... folder of it, or a config")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--images", help="a folder, a text file that lists files, or a dataset: \"{'type': ...}\""
    )
    source.add_argument("--texts", type=Path, metavar="FILE", help="captions, one a line")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write")
    parser.add_argument("--tower", help="default: the config's test_tower; text for captions")
    parser.add_argument(
        "--layer",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="blocks or stages; -1 is the last (default: the tower's own output)",
    )
    parser.add_argument("--format", choices=["safetensors", "parquet"], default="safetensors")
    parser.add_argument("--batch-size", type=int, default=256, help="rows encoded at a time")
    parser.add_argument("--device", help="cuda or cpu (default: a GPU where there is one)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    log_of_first_rank()
    try:
        extract(args)
    except (ValueError, OSError) as error:
        fail(error)
    finally:
        dist.shutdown()


def extract(args: argparse.Namespace) -> None:
    from webssl_toolbox.engine.runner import find_device

    if args.batch_size < 1:
        raise ValueError(f"--batch-size {args.batch_size}: give at least 1")
    if args.format == "parquet":
        check_pyarrow()
    device = find_device(args.device)
    dist.init(device)
    model = open_model(args.model, device)
    if args.texts:
        dataset: Any = Listed(args.texts, captions=True)
        data = dataset.identity()
    else:
        dataset, data = find_data(args.images)
    tower = args.tower or (model.text if args.texts else model.image)
    embed = Embedder(model, tower, args.layer, dataset, bool(args.texts))
    options = [tower, args.layer, args.format, args.batch_size, len(dataset)]
    claim(args.out, {"model": model.origin, "data": data, "options": options})
    shards = Parquet if args.format == "parquet" else Shards
    store = shards(args.out, len(dataset), tower)
    pieces = in_pieces(str(args.out), len(dataset), args.batch_size, embed, store)
    if dist.rank() > 0:
        for _ in pieces:
            pass
        return
    rows, failed = index(args.out, pieces, store)
    print(f"{rows:,} rows in {args.out}; {failed:,} could not be read")


def check_pyarrow() -> None:
    """Raises ValueError where it is missing, before anything is encoded."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"--format parquet needs pyarrow ({error}); pip install pyarrow, or take safetensors"
        ) from error


if __name__ == "__main__":
    main()
