"""Draws the sheet of ``preview_views.py``: cells of pictures and text under headings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from webssl_plugins.evaluators._lettering import FAINT, INK, Fonts

CELL, TEXT, GAP, HEADER = 192, 232, 16, 92  # pixels
GREEN, AMBER = (10, 118, 66), (255, 220, 140)
STRIPE, PAPER = (88, 100, 128), (246, 247, 249)


class Column(NamedTuple):
    """A view: its name, what to know of it, and a picture of each sample."""

    name: str
    note: str
    cells: list[Image.Image]


def fit(image: Image.Image) -> Image.Image:
    """Scales to a cell: up by a whole factor, with visible pixels, or down smoothly."""
    longest = max(image.size)
    factor = CELL // longest or CELL / longest
    size = [max(1, round(side * factor)) for side in image.size]
    return image.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)


def on_checkerboard(image: Image.Image) -> Image.Image:
    """Shows what is transparent."""
    if image.mode == "RGB":
        return image
    squares = np.add.outer(np.arange(image.height) // 8, np.arange(image.width) // 8) % 2
    board = Image.fromarray((222 + 22 * squares).astype(np.uint8)).convert("RGBA")
    return Image.alpha_composite(board, image).convert("RGB")


def draw_sheet(columns: Sequence[Column], fonts: Fonts) -> Image.Image:
    """Lays the columns out as a table with a heading."""
    rows = len(columns[0].cells)
    width = GAP + sum(column.cells[0].width + GAP for column in columns)
    sheet = Image.new("RGB", (width, HEADER + rows * (CELL + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((0, 0, width, HEADER - GAP), PAPER)
    for i in range(1, rows):
        middle = HEADER + i * (CELL + GAP) - GAP // 2
        draw.line((GAP, middle, width - GAP, middle), PAPER, 2)
    left = GAP
    for column in columns:
        draw.text((left, 8), column.name, INK, fonts.head)
        draw.text((left, 31), column.note, FAINT, fonts.small, spacing=3)
        for i, cell in enumerate(column.cells):
            sheet.paste(cell, (left, HEADER + i * (CELL + GAP) + (CELL - cell.height) // 2))
        left += column.cells[0].width + GAP
    return sheet
