"""Text on pictures: a typeface, and paragraphs that end in an ellipsis where room ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

LINE = 17  # pixels
INK, FAINT = (28, 32, 40), (118, 124, 136)
UNLIKELY = "\U0010fffd"  # in no font, so it is drawn as what is missing

Color = tuple[int, int, int]


class Span(NamedTuple):
    """A piece of text after which a line may be broken."""

    text: str
    ink: Color = INK
    ground: Color | None = None


class Fonts:
    """One typeface in three sizes; characters that it lacks are written as escapes.

    Args:
        file: a TrueType font; Pillow's own by default.
    """

    def __init__(self, file: str | None = None) -> None:
        try:
            self.small, self.body, self.head = (
                ImageFont.truetype(file, size) if file else ImageFont.load_default(size)
                for size in (12, 13, 16)
            )
        except OSError as error:
            raise ValueError(f"{file}: not a font that can be read ({error})") from error
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
            x = float(self.left)
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
