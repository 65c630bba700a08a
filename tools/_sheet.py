"""Draws the sheet of ``preview_views.py``: cells of pictures and text under headings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL, TEXT, LINE, GAP, HEADER = 192, 232, 17, 16, 92  # pixels
INK, FAINT, GREEN = (28, 32, 40), (118, 124, 136), (10, 118, 66)
AMBER, STRIPE, PAPER = (255, 220, 140), (88, 100, 128), (246, 247, 249)
UNLIKELY = "\U0010fffd"  # in no font, so it is drawn as what is missing

Color = tuple[int, int, int]


class Span(NamedTuple):
    """A piece of text after which a line may be broken."""

    text: str
    ink: Color = INK
    ground: Color | None = None


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


class Fonts:
    """One typeface in three sizes; characters that it lacks are written as escapes."""

    def __init__(self, file: str | None = None) -> None:
        try:
            self.small, self.body, self.head = (
                ImageFont.truetype(file, size) if file else ImageFont.load_default(size)
                for size in (12, 13, 16)
            )
        except OSError as error:
            raise ValueError(f"--font {file}: not a font that can be read ({error})") from error
        self.known: dict[str, bool] = {}

    def readable(self, text: str) -> str:
        return "".join(c if self.has(c) else c.encode("unicode_escape").decode() for c in text)

    def has(self, char: str) -> bool:
        if char not in self.known:
            drawn, missing = (bytes(self.body.getmask(c)) for c in (char, UNLIKELY))
            self.known[char] = char.isprintable() and drawn != missing
        return self.known[char]


class Page:
    """Writes paragraphs into a cell, from top to bottom, as far as there is room."""

    def __init__(self, cell: Image.Image, left: int, fonts: Fonts) -> None:
        self.draw, self.fonts = ImageDraw.Draw(cell), fonts
        self.left, self.top, self.width = left, 0, cell.width - left
        self.bottom = cell.height - LINE

    def write(self, spans: Sequence[Span], most: int) -> None:
        """Writes ``most`` lines or fewer; an ellipsis says that there is more."""
        lines = self.lines(spans)
        room = min(most, (self.bottom - self.top) // LINE)
        for i, line in enumerate(lines[:room]):
            more = i + 1 == room < len(lines)
            x = self.left
            for text, ink, ground in [*line, Span(" \u2026", FAINT)] if more else line:
                stop = x + self.fonts.body.getlength(text)
                if ground:
                    start = x + self.fonts.body.getlength(" " * text.startswith(" "))
                    self.draw.rectangle((start - 1, self.top, stop, self.top + LINE - 2), ground)
                self.draw.text((x, self.top), text, ink, self.fonts.body)
                x = stop
            self.top += LINE

    def lines(self, spans: Sequence[Span]) -> list[list[Span]]:
        """Breaks between spans, and within one that is longer than a line."""
        lines: list[list[Span]] = [[]]
        width, x = self.width - LINE, 0.0  # less room for the ellipsis
        for span in spans:
            text = self.fonts.readable(span.text)
            if x + self.fonts.body.getlength(text) > width and x > 0:
                lines.append([])
                text, x = text.lstrip(), 0.0
            while self.fonts.body.getlength(text) > width:
                fits = 1
                while self.fonts.body.getlength(text[: fits + 1]) <= width:
                    fits += 1
                lines[-1].append(span._replace(text=text[:fits]))
                lines.append([])
                text = text[fits:]
            lines[-1].append(span._replace(text=text))
            x += self.fonts.body.getlength(text)
        return lines

    def foot(self, text: str) -> None:
        """Writes a small last line, which ends where the cell ends."""
        text = self.fonts.readable(text)
        while self.fonts.small.getlength(text) > self.width:
            text = "\u2026" + text[2:]  # a path says most at its end
        self.draw.text((self.left, self.bottom + 2), text, FAINT, self.fonts.small)


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
