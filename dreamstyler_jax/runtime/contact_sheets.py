"""Contact sheets: many pictures in one labelled table, as a picture."""

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dreamstyler_jax.runtime.errors import shortened
from dreamstyler_jax.runtime.images import resize_within

MAX_SIDE, MAX_AREA = 16_384, 64_000_000  # in pixels: browsers and common viewers still show such a sheet

_PAPER, _MISSING, _HAIRLINE, _INK, _GREY = "#ffffff", "#f0efec", "#dddbd6", "#1b1b1a", "#55534f"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str | None = None,
    tile_size: int = 256,
) -> Image.Image:
    """Lays pictures out in a labelled table.

    Pictures keep their aspect. Small ones are enlarged by whole factors without smoothing, so that a 64-pixel picture
    shows its pixels; large ones are reduced (Lanczos filter). Long labels wrap, and end in "..." if they do not fit.

    Args:
        rows: pictures row by row; None, or a row shorter than the others, leaves a place empty.
        row_labels: one per row, to its left; or none.
        column_labels: one per column, above it; or none.
        title: a heading above the table.
        tile_size: longest side of a picture on the sheet, in pixels. It is reduced, down to 16, if the sheet would be
            longer than 16,384 pixels or larger than 64 megapixels.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are no rows and columns, or their number is not that of the labels.
    """
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise ValueError("a contact sheet needs at least one picture, or a place for one")
    if len(row_labels) not in (0, len(rows)) or len(column_labels) not in (0, columns):
        raise ValueError(f"labels for {len(row_labels)} x {len(column_labels)} pictures, not {len(rows)} x {columns}")
    tile_size = _feasible_size(tile_size, len(rows), columns)
    font_size, gap, margin = min(max(tile_size // 14, 12), 22), max(tile_size // 16, 6), max(tile_size // 6, 24)
    tiles = [[image and _tile(image, tile_size) for image in row] + [None] * (columns - len(row)) for row in rows]
    widths = _extents([[tile and tile.width for tile in column] for column in zip(*tiles, strict=True)], tile_size)
    heights = _extents([[tile and tile.height for tile in row] for row in tiles], tile_size)

    side_width, max_height = max(*widths, 12 * font_size), 7 * font_size
    side_texts, head_texts = row_labels or [""] * len(rows), column_labels or [""] * columns
    side = [fit_label(text, font_size, side_width, height) for text, height in zip(side_texts, heights, strict=True)]
    head = [fit_label(text, font_size, width, max_height) for text, width in zip(head_texts, widths, strict=True)]
    left = margin + max(label.width + 2 * gap if label.lines else 0 for label in side)
    *lefts, right = itertools.accumulate((width + gap for width in widths), initial=left)
    heading = fit_label(title or "", round(1.6 * font_size), right - gap - margin, max_height)
    top = margin + (heading.height + margin // 2 if title else 0)
    top += max(label.height + gap if label.lines else 0 for label in head)
    *tops, bottom = itertools.accumulate((height + gap for height in heights), initial=top)

    sheet = Image.new("RGB", (right - gap + margin, bottom - gap + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)
    heading.draw(draw, margin, margin, _INK)
    for label, x in zip(head, lefts, strict=True):
        label.draw(draw, x, top - gap - label.height, _GREY)
    for label, row, y, height in zip(side, tiles, tops, heights, strict=True):
        label.draw(draw, margin, y + (height - label.height) // 2, _GREY)
        for tile, x, width in zip(row, lefts, widths, strict=True):
            _place(sheet, draw, tile, (x, y, width, height))
    return sheet


def _feasible_size(tile_size: int, rows: int, columns: int) -> int:
    """Reduces the size of a tile so that the sheet stays within :data:`MAX_SIDE` and about :data:`MAX_AREA`."""
    by_side = int(0.8 * MAX_SIDE / max(rows, columns)) - 6
    by_area = int(math.sqrt(MAX_AREA / (rows * columns)))
    return max(16, min(tile_size, by_side, by_area))


def _tile(image: Image.Image, size: int) -> Image.Image:
    """Brings the longer side of a picture to ``size`` pixels, or to the largest multiple that is not longer.

    A picture that is a little longer than half of it is doubled all the same, which is up to an eighth too long.
    """
    image, longest = image.convert("RGB"), max(image.size)
    if longest > size:
        return resize_within(image, size, size)
    factor = 2 if size < 2 * longest <= size + size // 8 else size // longest
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _extents(lines: list[list[int | None]], default: int) -> list[int]:
    """The extent of each row or column: of its largest tile, or if it is empty, of the largest tile in the table.

    Args:
        lines: the heights of the tiles in each row, or their widths in each column; None at empty places.
        default: the extent in a table without tiles.
    """
    largest = [max((extent for extent in line if extent), default=0) for line in lines]
    return [extent or max(largest) or default for extent in largest]


def _place(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Image.Image | None, box: tuple[int, int, int, int]
) -> None:
    """Centres a tile in its box (x, y, width, height), inside a hairline that sets pale pictures off from the paper."""
    x, y, width, height = box
    if tile is None:
        draw.rectangle((x, y, x + width - 1, y + height - 1), _MISSING)
        return
    x, y = x + (width - tile.width) // 2, y + (height - tile.height) // 2
    draw.rectangle((x - 1, y - 1, x + tile.width, y + tile.height), outline=_HAIRLINE)
    sheet.paste(tile, (x, y))


@dataclass(frozen=True)
class Label:
    """Lines of text, ready to draw.

    Attributes:
        lines: the text, wrapped.
        font: the font of all lines.
        leading: distance from one line to the next, in pixels.
    """

    lines: list[str]
    font: Font
    leading: int

    @property
    def width(self) -> int:
        """Width of the longest line in pixels."""
        return max((math.ceil(self.font.getlength(line)) for line in self.lines), default=0)

    @property
    def height(self) -> int:
        """Height of all lines in pixels."""
        return len(self.lines) * self.leading

    def draw(self, draw: ImageDraw.ImageDraw, x: int, y: int, colour: str) -> None:
        """Draws the lines with their top left corner at (x, y)."""
        for i, line in enumerate(self.lines):
            draw.text((x, y + i * self.leading), line, colour, self.font)


def fit_label(text: str, font_size: int, max_width: int, max_height: int) -> Label:
    """Wraps a text to at most ``max_width`` x ``max_height`` pixels.

    A text that does not fit is cut and ends in "...". One line is kept even if it is higher than ``max_height``.
    """
    font = font_for(text, font_size)
    leading = round(1.3 * font_size)
    lines = _wrap(text, font, max_width)
    max_lines = max(max_height // leading, 1)
    if len(lines) > max_lines:
        last = lines[max_lines - 1]
        while last and font.getlength(last + "...") > max_width:
            last = last[:-1]
        lines = [*lines[: max_lines - 1], last.rstrip() + "..."]
    return Label(lines, font, leading)


def font_for(text: str, font_size: int) -> Font:
    """The font that lacks the fewest letters of a text: Pillow's own, or else DejaVu Sans, which matplotlib brings.

    A warning says if both lack some.
    """
    fonts = [ImageFont.load_default(font_size)]
    if lacking := _lacking(fonts[0], text):
        import matplotlib

        further = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        fonts.append(ImageFont.truetype(further, font_size))
        lacking = min((_lacking(font, text) for font in fonts), key=len)
    if lacking:
        warnings.warn(f"sheets have no font for {shortened(lacking, 20)!r}; the page shows it", stacklevel=2)
    return min(fonts, key=lambda font: len(_lacking(font, text)))


def _lacking(font: Font, text: str) -> str:
    """The letters of a text that a font draws as it draws any that it does not have."""
    unknown = _drawn(font, "\U0010ffff")
    return "".join(letter for letter in dict.fromkeys(text) if not letter.isspace() and _drawn(font, letter) == unknown)


def _drawn(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask: Any = font.getmask(letter)
    return mask.size, bytes(mask)


def _wrap(text: str, font: Font, max_width: int) -> list[str]:
    """Breaks a text at its spaces, and inside words that are longer than a line."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= max_width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > max_width:
                lines.append("")
            lines[-1] += character
    return lines
