"""Grids of small pictures: rows of cells under headings, some framed, some with words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from webssl_toolbox.data.sample import Sample
from webssl_toolbox.encoder import EncodedSplit, load_samples
from webssl_toolbox.registry import DATASETS

from ._lettering import FAINT, LINE, Color, Fonts, Page, Span

CELL, FRAME, GAP, TEXT, HEADER = 128, 4, 8, 224, 24  # pixels
PAPER, WHITE = (242, 243, 246), (255, 255, 255)
RIGHT, WRONG = (22, 160, 92), (214, 58, 50)
CAPTION_LINES = 2


class Cell(NamedTuple):
    """One field of a grid.

    Attributes:
        image: uint8 ``[H, W, 3]``, or ``[H, W, 4]`` with straight alpha; None for words alone.
        words: below the image, in two lines at most; or all that the field holds.
        frame: colour of a frame; None for none.
        note: a line below words that stand alone.
    """

    image: np.ndarray | None
    words: str = ""
    frame: Color | None = None
    note: str = ""


def draw_grid(
    heads: Sequence[str], rows: Sequence[Sequence[Cell]], font: str | None = None
) -> np.ndarray:
    """Draws rows of cells.

    Args:
        heads: a heading for each column.
        rows: all of the length of ``heads``; a column is of images, or of words alone.
        font: a TrueType file; Pillow's own font, which has ASCII alone, by default.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    fonts = Fonts(font)
    captioned = any(cell.words for row in rows for cell in row if cell.image is not None)
    side = CELL + 2 * FRAME
    height = side + LINE * CAPTION_LINES * captioned
    widths = [TEXT if cell.image is None else side for cell in rows[0]]
    size = (GAP + sum(widths) + GAP * len(widths), HEADER + len(rows) * (height + GAP))
    grid = Image.new("RGB", size, PAPER)
    left = GAP
    for column, (head, width) in enumerate(zip(heads, widths, strict=True)):
        ImageDraw.Draw(grid).text((left + FRAME, 5), head, FAINT, fonts.small)
        for i, row in enumerate(rows):
            field = _field(row[column], (width, height), fonts)
            grid.paste(field, (left, HEADER + i * (height + GAP)))
        left += width + GAP
    return np.asarray(grid)


def spread(total: int, count: int) -> list[int]:
    """Returns ``count`` numbers below ``total``, or all, evenly spaced."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()


def shown(cfg: Mapping[str, Any], count: int) -> list[Sample]:
    """Returns ``count`` evenly spaced samples of a dataset, the same at every call.

    Raises:
        ValueError: none of their images can be read.
    """
    dataset = DATASETS.create(cfg, "data")
    loaded = load_samples(dataset, spread(len(dataset), count))
    samples = [sample for _, sample in loaded if sample.image is not None]
    if not samples:
        raise ValueError("data: none of the images to draw can be read; give another dataset")
    return samples


def images_of(
    cfg: Mapping[str, Any], split: EncodedSplit, rows: Iterable[int]
) -> dict[int, np.ndarray]:
    """Loads the images of some rows of an encoded dataset, each once."""
    rows = sorted(set(rows))
    loaded = load_samples(DATASETS.create(cfg, "dataset"), [split.indices[row] for row in rows])
    pairs = zip(rows, (sample.image for _, sample in loaded), strict=True)
    return {row: image for row, image in pairs if image is not None}


def _field(cell: Cell, size: tuple[int, int], fonts: Fonts) -> Image.Image:
    field = Image.new("RGB", size, PAPER)
    page = Page(field, FRAME, fonts)
    spans = [Span(word) for word in re.findall(r"\s*\S+", cell.words[:1000])]
    if cell.image is None:
        page.top = FRAME
        page.write(spans, most=CELL // LINE - 1)
        page.write([Span(cell.note, FAINT)], most=1)
    else:
        box = (0, 0, CELL + 2 * FRAME - 1, CELL + 2 * FRAME - 1)
        ImageDraw.Draw(field).rectangle(box, WHITE, cell.frame or PAPER, FRAME)
        picture = fit(cell.image)
        middle = (FRAME + (CELL - picture.width) // 2, FRAME + (CELL - picture.height) // 2)
        field.paste(picture, middle)
        page.top, page.bottom = CELL + 2 * FRAME, size[1]
        page.write(spans, CAPTION_LINES)
    return field


def fit(image: np.ndarray) -> Image.Image:
    """Puts an image on white and scales its longer side to a cell.

    A whole factor keeps the pixels visible: what a model sees at 32 pixels is no more than that.
    """
    picture = Image.fromarray(image)
    if picture.mode == "RGBA":
        ground = Image.new("RGBA", picture.size, WHITE)
        picture = Image.alpha_composite(ground, picture).convert("RGB")
    longest = max(picture.size)
    size = [max(1, round(length * CELL / longest)) for length in picture.size]
    whole = CELL % longest == 0
    return picture.resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)
