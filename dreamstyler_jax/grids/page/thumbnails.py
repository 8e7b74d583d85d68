"""The pictures that the page shows: the files that can be shown, atlases of thumbnails, pictures of the styles."""

import dataclasses
import functools
import hashlib
import io
import math
import os
import re
import urllib.parse
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import inside, write_atomic

ATLAS_FOLDER = "atlas"
ATLAS_COLUMNS, ATLAS_ROWS = 16, 16
THUMBNAIL_SIDE = 128  # longest side of a thumbnail in pixels
STYLE_PICTURE_SIDE = 512  # longest side of a style's picture in pixels
MAX_KEPT = 1024  # thumbnails of four atlases, at most 50 MB
NOT_YET = "not yet painted"  # the ``error`` in the line of a picture that is still to be painted

_JPEG: dict[str, Any] = dict(quality=88, subsampling=0, optimize=True)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture file that the page can show.

    Attributes:
        path: the file.
        url: its address relative to the page.
        size: (width, height) in pixels.
        digest: SHA-256 of the file's bytes.
    """

    path: Path
    url: str
    size: tuple[int, int]
    digest: bytes

    @property
    def thumbnail_size(self) -> tuple[int, int]:
        """(width, height) of its thumbnail. Small pictures are not enlarged. ``thumbnails.js`` computes the same."""
        scale = min(1.0, THUMBNAIL_SIDE / max(self.size))
        return max(1, math.floor(self.size[0] * scale + 0.5)), max(1, math.floor(self.size[1] * scale + 0.5))


def examine(folder: Path, line: Mapping[str, Any]) -> Picture | str:
    """Returns the picture of a line of the manifest, or says why it cannot be shown."""
    if line.get("error") is not None:
        return str(line["error"]) or "failed"
    file = line.get("file")
    if not isinstance(file, str) or not file:
        return "the manifest names no file"
    path = inside(folder, file)
    if path is None:
        return "the manifest names a file outside of its folder"
    try:
        content = path.read_bytes()
        with warnings.catch_warnings(), images.open_picture(io.BytesIO(content)) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            size = image.size
            image.verify()
    except FileNotFoundError:
        return "the picture's file is missing"
    except UnidentifiedImageError:  # whose message holds an address in memory, another one in each run
        return "the picture's file cannot be read: it is not a picture"
    except Exception as error:  # a damaged file can make Pillow raise anything
        return f"the picture's file cannot be read: {error}"
    return Picture(path, _url(folder, path), size, hashlib.sha256(content).digest())


def as_recorded(folder: Path, line: Mapping[str, Any]) -> Picture | str:
    """Returns what `examine` finds if the picture is as its line says, without reading it where the line says all."""
    path, width, height = inside(folder, line.get("file")), line.get("width"), line.get("height")
    if path is None or line.get("error") is not None:
        return examine(folder, line)
    if not (isinstance(width, int) and isinstance(height, int) and min(width, height) > 0):
        return examine(folder, line)
    try:
        digest = bytes.fromhex(line["sha256"])
    except (KeyError, TypeError, ValueError):
        return examine(folder, line)
    return Picture(path, _url(folder, path), (width, height), digest)


def _url(folder: Path, path: Path) -> str:
    return "/".join(urllib.parse.quote(os.fsencode(part), safe="") for part in path.relative_to(folder).parts)


def thumbnail_box(pictures: Iterable[Picture | None]) -> tuple[int, int]:
    """Returns (width, height) of the smallest box that holds every thumbnail."""
    sizes = {picture.thumbnail_size for picture in pictures if picture}
    if not sizes:
        return THUMBNAIL_SIDE, THUMBNAIL_SIDE
    return max(width for width, _ in sizes), max(height for _, height in sizes)


def split_into_atlases(pictures: Sequence[Picture | None]) -> list[Sequence[Picture | None]]:
    """Splits all pictures into those of each atlas.

    A picture that failed keeps its place, so that painting it later changes no other atlas.
    """
    count = ATLAS_COLUMNS * ATLAS_ROWS
    return [pictures[start : start + count] for start in range(0, len(pictures), count)]


def write_atlas(folder: Path, pictures: Sequence[Picture | None], box: tuple[int, int]) -> str | None:
    """Writes one atlas: thumbnails in boxes side by side, ``ATLAS_COLUMNS`` in a row.

    Returns:
        The file's name within the folder, or None if there is no picture to show.
    """
    if not any(pictures):
        return None
    settings = repr((THUMBNAIL_SIDE, ATLAS_COLUMNS, box, sorted(_JPEG.items())))
    key = hashlib.sha256(settings.encode() + b"".join(picture.digest if picture else b"-" for picture in pictures))
    return _write_once(folder, key.hexdigest(), lambda: _atlas(pictures, box))


def _atlas(pictures: Sequence[Picture | None], box: tuple[int, int]) -> Image.Image:
    rows = -(-len(pictures) // ATLAS_COLUMNS)
    atlas = Image.new("RGB", (min(len(pictures), ATLAS_COLUMNS) * box[0], rows * box[1]), "#808080")
    for i, picture in enumerate(pictures):
        if picture and (thumbnail := _thumbnail(picture)):
            atlas.paste(thumbnail, (i % ATLAS_COLUMNS * box[0], i // ATLAS_COLUMNS * box[1]))
    return atlas


@functools.lru_cache(MAX_KEPT)
def _thumbnail(picture: Picture) -> Image.Image | None:
    """None if the picture's checksums are right, but its pixels do not decode: its place stays grey."""
    try:
        image = images.load(picture.path)
    except UserError:
        return None
    return image.resize(picture.thumbnail_size, Image.Resampling.LANCZOS)


def write_style_pictures(folder: Path, pictures: Iterable[tuple[str, Image.Image]]) -> dict[str, dict[str, Any]]:
    """Writes reduced copies of the pictures that the styles were learned from.

    Args:
        folder: the page's folder.
        pictures: the name of each style with its picture, in RGB.

    Returns:
        ``{"file": name within the folder, "size": (width, height)}`` by the style's name.
    """
    written = {}
    for name, picture in pictures:
        image = picture.copy()
        image.thumbnail((STYLE_PICTURE_SIDE, STYLE_PICTURE_SIDE), Image.Resampling.LANCZOS)
        key = hashlib.sha256(repr((image.size, sorted(_JPEG.items()))).encode() + image.tobytes()).hexdigest()
        written[name] = {"file": _write_once(folder, key, lambda image=image: image), "size": image.size}
    return written


def _write_once(folder: Path, key: str, make: Callable[[], Image.Image]) -> str:
    """Writes a picture under a name made from its key, unless the file exists, and returns the name."""
    name = f"{ATLAS_FOLDER}/{key[:16]}.jpg"
    if not (folder / name).exists():
        write_atomic(folder / name, _to_jpeg(make()))
    return name


def _to_jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    try:
        image.save(buffer, "JPEG", **_JPEG)
    except OSError:  # Pillow has room for a byte per pixel of an optimised file, which is too little for noise
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", **{**_JPEG, "optimize": False})
    return buffer.getvalue()


def remove_unused(folder: Path, used: Iterable[str]) -> None:
    """Removes the atlases and pictures of styles that only an earlier page showed; other files stay."""
    names = {Path(file).name for file in used}
    for path in (folder / ATLAS_FOLDER).glob("*.jpg"):
        if re.fullmatch(r"[0-9a-f]{16}\.jpg", path.name) and path.name not in names:
            path.unlink(missing_ok=True)
