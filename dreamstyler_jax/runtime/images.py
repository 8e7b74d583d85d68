"""Pictures: reading whatever people have, fitting it to a model, writing files that describe themselves."""

import io
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_atomic

MAX_PIXELS = 2 * 89_478_485  # where Pillow itself speaks of a decompression bomb
MAX_SIDE, MAX_AREA = 16_384, 64_000_000  # of a contact sheet: what browsers and common viewers still show
_PAPER, _MISSING, _HAIRLINE, _INK, _GREY = "#ffffff", "#f0efec", "#dddbd6", "#1b1b1a", "#55534f"
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def load(path: str | Path) -> Image.Image:
    """Reads a picture file of any common kind as 8-bit sRGB.

    The EXIF orientation is applied, transparency composited on white, an embedded colour profile converted to sRGB,
    CMYK, palette and grey made RGB, 16-bit grey scaled down; of an animation the first frame counts.

    Raises:
        UserError: the file is missing, not a picture, damaged, cut short, of floating-point values, or larger than
            179 megapixels (which is checked before anything is decoded).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file = Image.open(path)
    except FileNotFoundError as error:
        raise UserError(f"there is no picture {path}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder: name the pictures in it, such as {Path(path) / '*.png'}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a picture, or of a kind that Pillow cannot read") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is larger than {MAX_PIXELS // 10**6} megapixels: make it smaller first") from error
    except Exception as error:  # what a damaged header makes of Pillow's parsers is open
        raise UserError(f"cannot read the picture {path}: {error}") from error
    with file:
        if file.width * file.height > MAX_PIXELS:
            raise UserError(f"{path} is larger than {MAX_PIXELS // 10**6} megapixels: make it smaller first")
        if file.mode == "F":
            raise UserError(f"{path} holds floating-point values: save it with 8 or 16 bits per channel")
        try:
            return _to_rgb(ImageOps.exif_transpose(file))
        except Exception as error:  # and so is what damaged pixels make of its decoders
            raise UserError(f"cannot read the picture {path}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.float32)
        image = Image.fromarray(np.clip(np.rint(values / 257), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    image = _to_srgb(image)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.info = {}  # its profile and orientation no longer hold, and must not be saved again
    return image


def _to_srgb(image: Image.Image) -> Image.Image:
    """Applies the embedded colour profile; one that is unusable is ignored, as viewers do."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError):
        return image


def fit(image: Image.Image, height: int, width: int, mode: str = "crop") -> Image.Image:
    """Makes a picture exactly `height` x `width` without stretching it (Lanczos filter).

    Args:
        image: any RGB picture.
        height, width: the size wanted, in pixels.
        mode: "crop" cuts the centre to the aspect wanted, which loses two margins; "fit" keeps the whole picture and
            mats it evenly on two sides in the mean colour of the picture's own edges there.

    Raises:
        UserError: another mode, or a size below one pixel.
    """
    if height < 1 or width < 1:
        raise UserError(f"a picture cannot be {width} x {height} pixels")
    if mode == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    if mode != "fit":
        raise UserError(f'pictures can be made to fit by "crop" or "fit", not by {mode!r}')
    inner = _contain(image, height, width)
    if inner.size == (width, height):
        return inner
    left, top = (width - inner.width) // 2, (height - inner.height) // 2
    mat = Image.new("RGB", (width, height), _edge_colour(inner, sides=inner.width < width))
    mat.paste(inner, (left, top))
    return mat


def _contain(image: Image.Image, height: int, width: int) -> Image.Image:
    """The largest version of a picture within `height` x `width`, at least one pixel wide and high."""
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _edge_colour(image: Image.Image, sides: bool) -> tuple[int, int, int]:
    """Mean colour of the left and right columns (`sides`), or of the top and bottom rows."""
    pixels = np.asarray(image, np.float32)
    edges = pixels[:, [0, -1]] if sides else pixels[[0, -1]]
    red, green, blue = np.rint(edges.reshape(-1, 3).mean(0)).astype(int).tolist()
    return red, green, blue


def to_array(image: Image.Image) -> np.ndarray:
    """A picture as float32[height, width, 3] in [-1, 1], the range of Stable Diffusion's VAE."""
    return to_unit(np.asarray(image.convert("RGB")))


def to_unit(pixels: Any) -> Any:
    """uint8 [0, 255] to float32 [-1, 1]; an array of NumPy or of JAX."""
    return pixels.astype(np.float32) / 127.5 - 1


def to_image(array: np.ndarray) -> Image.Image:
    """The picture of [height, width, 3] values in [-1, 1] (clipped, rounded); undoes :func:`to_array` exactly.

    Raises:
        FloatingPointError: NaN or Inf among the values.
    """
    values = np.asarray(array, np.float32)
    if values.ndim != 3 or values.shape[-1] != 3:
        raise ValueError(f"a picture has the shape [height, width, 3], not {list(values.shape)}")
    if not np.isfinite(values).all():
        raise FloatingPointError("the picture holds NaN or Inf")
    return Image.fromarray(np.rint((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8))


def save_png(path: str | Path, image: Image.Image, text: Mapping[str, str] | None = None) -> None:
    """Writes a PNG in one step; see :func:`to_png`."""
    write_atomic(path, to_png(image, text))


def to_png(image: Image.Image, text: Mapping[str, str] | None = None) -> bytes:
    """A PNG file with `text` in its text chunks (see :func:`read_text`).

    Keys: 1 to 79 Latin-1 characters. Values: any text; what Latin-1 cannot hold goes into an iTXt chunk.
    """
    chunks = PngInfo()
    for key, value in (text or {}).items():
        chunks.add_text(key, value.encode("utf-8", "replace").decode("utf-8"))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def read_text(path: str | Path) -> dict[str, str]:
    """The text chunks of a PNG file.

    Raises:
        UserError: no such file, or not a readable PNG.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return {key: str(value) for key, value in image.text.items()}
    except FileNotFoundError as error:
        raise UserError(f"there is no picture {path}") from error
    except Exception as error:  # what a damaged file makes of Pillow's parsers is open
        raise UserError(f"cannot read {path} as a PNG: {error}") from error


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str | None = None,
    cell: int = 256,
) -> Image.Image:
    """Lays pictures out in a labelled table.

    Pictures keep their aspect. Small ones are enlarged by whole factors without smoothing, so that a 64-pixel picture
    shows its pixels; large ones are reduced (Lanczos). Long labels wrap, and end in "..." where the room does.

    Args:
        rows: pictures row by row; None, or a row shorter than the others, leaves an empty tile. A leading column with
            the style's own picture is a column like any other.
        row_labels: one per row, to the left; or none.
        column_labels: one per column, above; or none.
        title: a line above all.
        cell: longest side of a tile in pixels; less, down to 16, is used where a sheet of very many would come out
            longer than 16,384 pixels or larger than 64 megapixels.

    Returns:
        An RGB picture.
    """
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise ValueError("a contact sheet needs at least one picture, or a place for one")
    if len(row_labels) not in (0, len(rows)) or len(column_labels) not in (0, columns):
        raise ValueError(f"labels for {len(row_labels)} x {len(column_labels)} pictures, not {len(rows)} x {columns}")
    longest, count = max(columns, len(rows)), columns * len(rows)
    cell = max(16, min(cell, int(0.9 * MAX_SIDE / longest) - 6, int(math.sqrt(MAX_AREA / count))))
    size, gap, margin = min(max(cell // 14, 12), 22), max(cell // 16, 6), max(cell // 6, 24)
    tiles = [[image and _tile(image, cell) for image in row] + [None] * (columns - len(row)) for row in rows]
    widths = _extents([[tile and tile.width for tile in column] for column in zip(*tiles, strict=True)], cell)
    heights = _extents([[tile and tile.height for tile in row] for row in tiles], cell)

    side_labels, head_labels = row_labels or [""] * len(rows), column_labels or [""] * columns
    side_width = max(*widths, 12 * size)
    side = [_label(text, size, side_width, height) for text, height in zip(side_labels, heights, strict=True)]
    head = [_label(text, size, width, 7 * size) for text, width in zip(head_labels, widths, strict=True)]
    left = margin + max(label.width + 2 * gap if label.lines else 0 for label in side)
    *lefts, right = itertools.accumulate((width + gap for width in widths), initial=left)
    name = _label(title or "", round(1.6 * size), right - gap - margin, 7 * size)
    top = margin + (name.height + margin // 2 if title else 0)
    top += max(label.height + gap if label.lines else 0 for label in head)
    *tops, bottom = itertools.accumulate((height + gap for height in heights), initial=top)

    sheet = Image.new("RGB", (right - gap + margin, bottom - gap + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)
    name.draw(draw, margin, margin, _INK)
    for label, x in zip(head, lefts, strict=True):
        label.draw(draw, x, top - gap - label.height, _GREY)
    for label, row, y, height in zip(side, tiles, tops, heights, strict=True):
        label.draw(draw, margin, y + (height - label.height) // 2, _GREY)
        for tile, x, width in zip(row, lefts, widths, strict=True):
            _place(sheet, draw, tile, (x, y, width, height))
    return sheet


def _tile(image: Image.Image, cell: int) -> Image.Image:
    """A picture brought near `cell` pixels on its longer side."""
    longest = max(image.size)
    if longest > cell:
        return _contain(image.convert("RGB"), cell, cell)
    factor = cell // longest
    return image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _extents(lines: list[list[int | None]], default: int) -> list[int]:
    """The extent of each line of tiles: its largest tile's, or where it has none the largest of all (or `default`)."""
    largest = [max((extent for extent in line if extent), default=0) for line in lines]
    return [extent or max(largest) or default for extent in largest]


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Image.Image | None, box: tuple[int, ...]) -> None:
    """Centres a tile in its box, in a hairline that keeps pale pictures apart from the paper."""
    x, y, width, height = box
    if tile is None:
        draw.rectangle((x, y, x + width - 1, y + height - 1), _MISSING)
        return
    x, y = x + (width - tile.width) // 2, y + (height - tile.height) // 2
    draw.rectangle((x - 1, y - 1, x + tile.width, y + tile.height), outline=_HAIRLINE)
    sheet.paste(tile, (x, y))


@dataclass(frozen=True)
class _Label:
    """Lines of text, ready to draw."""

    lines: list[str]
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    leading: int

    @property
    def width(self) -> int:
        return max((math.ceil(self.font.getlength(line)) for line in self.lines), default=0)

    @property
    def height(self) -> int:
        return len(self.lines) * self.leading

    def draw(self, draw: ImageDraw.ImageDraw, x: int, y: int, colour: str) -> None:
        for i, line in enumerate(self.lines):
            draw.text((x, y + i * self.leading), line, colour, self.font)


def _label(text: str, size: int, width: int, height: int) -> _Label:
    """Wraps a text into `width` x `height` pixels; "..." stands for what finds no room."""
    font = ImageFont.load_default(size)
    leading = round(1.3 * size)
    lines = _wrap(text, font, width)
    room = max(height // leading, 1)
    if len(lines) > room:
        last = lines[room - 1]
        while last and font.getlength(last + "...") > width:
            last = last[:-1]
        lines = [*lines[: room - 1], last.rstrip() + "..."]
    return _Label(lines, font, leading)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Breaks a text at its spaces, or inside words longer than a line."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines
