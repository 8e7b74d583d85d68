"""A folder of pictures as one page: ``index.html``, which opens in any browser, straight from the disk.

The page holds all that the manifest says, its own script and its own style sheet; beside it lie the pictures and, under
``atlas/``, sheets of thumbnails. Whatever varies between the pictures is an *axis* of their grid, whatever it is
called: a field with a text, a number or true and false, each number of an object of numbers, or another object or list
as a whole. The parts of the page are in the folder ``page``.
"""

import base64
import dataclasses
import hashlib
import html
import io
import json
import math
import os
import re
import urllib.parse
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_atomic

FILE_NAME = "index.html"
ATLAS_FOLDER = "atlas"
THUMBNAIL = 128  # longest side in pixels
STYLE_PICTURE = 512  # the same of what a style was learned from
ATLAS_COLUMNS, ATLAS_ROWS = 16, 16

_SCRIPTS = ("elements.js", "model.js", "thumbnails.js", "grid.js", "axes.js", "views.js", "main.js")
_JPEG = dict(quality=88, subsampling=0, optimize=True)
_NO_AXIS = ("id", "file", "sha256", "error", "command", "learned_from")
_OUTERMOST = ("content", "prompt", "style", "styles", "checkpoint", "seed")  # the order in which axes take their places
_EXACT = 2**53  # whole numbers up to here are the same in JavaScript


@dataclasses.dataclass(frozen=True)
class Axis:
    """A parameter of the pictures.

    Attributes:
        name: what it is called.
        values: its distinct values in the order of the manifest; None where a picture does not have it.
        labels: what to call the values where they are objects or lists; empty otherwise.
        at: for each picture the index of its value.
    """

    name: str
    values: list[Any]
    labels: list[str]
    at: list[int]


@dataclasses.dataclass(frozen=True)
class _Picture:
    """A picture file that can be shown: where it is, (width, height) in pixels, SHA-256 of its bytes."""

    path: Path
    url: str
    size: tuple[int, int]
    digest: bytes

    @property
    def thumbnail(self) -> tuple[int, int]:
        """Width and height of its thumbnail: small pictures keep their own. The script computes the same."""
        scale = min(1.0, THUMBNAIL / max(self.size))
        return max(1, math.floor(self.size[0] * scale + 0.5)), max(1, math.floor(self.size[1] * scale + 0.5))


def write_page(
    folder: str | Path,
    lines: Iterable[Mapping[str, Any]],
    *,
    title: str,
    style_pictures: Mapping[str, str | Path] = MappingProxyType({}),
) -> Path:
    """Writes the page of the pictures that the lines of a manifest list, and the thumbnails that it shows.

    A line is an object with ``id`` and ``file`` (relative to the folder), or ``error`` where the picture failed, and
    with ``command``, which makes the picture again; all else in it but ``sha256`` and ``learned_from`` are parameters.
    A picture that is missing, damaged or outside of the folder is shown as failed. Equal input gives equal bytes, and
    thumbnails that are there already are not made again: sheets are named after what they show.

    Args:
        folder: holds the pictures; the page is left there.
        lines: none of an id twice.
        title: the page's heading.
        style_pictures: what each style was learned from, by the names in the lines' ``style`` and ``styles``; any size.
            One that cannot be read is left out, with a warning.

    Returns:
        The path of the page.

    Raises:
        OSError: the page cannot be written.
    """
    folder = Path(folder)
    lines = list(lines)
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(lambda line: _examine(folder, line), lines))
        shown = [picture if isinstance(picture, _Picture) else None for picture in pictures]
        box = _box(shown)
        atlases = list(pool.map(lambda part: _write_atlas(folder, part, box), _parts(shown)))
    styles = _write_style_pictures(folder, style_pictures)
    errors = [None if isinstance(picture, _Picture) else picture for picture in pictures]
    axes = find_axes(lines, errors)
    rows, columns = default_places(axes)
    data = {
        "title": title,
        "thumbnail": THUMBNAIL,
        "box": box,
        "atlas": {"columns": ATLAS_COLUMNS, "rows": ATLAS_ROWS, "files": [item and item["file"] for item in atlases]},
        "styles": styles,
        "axes": [{"name": axis.name, "values": axis.values, "labels": axis.labels} for axis in axes],
        "rows": rows,
        "columns": columns,
        "cells": [
            {
                "id": str(line["id"]),
                "at": [axis.at[i] for axis in axes],
                "command": str(line.get("command", "")),
                **({"error": picture} if isinstance(picture, str) else {"file": picture.url, "size": picture.size}),
            }
            for i, (line, picture) in enumerate(zip(lines, pictures, strict=True))
        ],
    }
    path = folder / FILE_NAME
    write_atomic(path, _html(title, data))
    _remove_others(folder, [*atlases, *styles.values()])
    return path


# What the manifest says


def find_axes(lines: Sequence[Mapping[str, Any]], errors: Sequence[str | None]) -> list[Axis]:
    """The parameters of the lines of a manifest, those that are the same in all of them included.

    Args:
        lines: one per picture.
        errors: what went wrong with each picture, or None; where anything did, "state" is an axis as well.
    """
    columns: list[tuple[str, list[Any]]] = []
    fields = [field for field in dict.fromkeys(key for line in lines for key in line) if field not in _NO_AXIS]
    for field in fields:
        column = [_plain(line.get(field)) for line in lines]
        if field == "prompt":
            column = [_general(text, line) for text, line in zip(column, lines, strict=True)]
        if all(value is None or _is_numbers(value) for value in column) and any(column):
            keys = dict.fromkeys(key for value in column for key in value or ())
            taken = {*fields, *(name for name, _ in columns)}
            for key in keys:
                name = f"{field}.{key}" if key in taken else key
                columns.append((name, [(value or {}).get(key) for value in column]))
        else:
            columns.append((field, column))
    if any(errors):
        columns.append(("state", ["painted" if error is None else "failed" for error in errors]))
    return [_axis(name, column) for name, column in columns]


def _plain(value: Any) -> Any:
    """A value of JSON as JavaScript reads it: 1.0 is 1; what it would round, and NaN, become texts."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() and abs(value) <= _EXACT else value
    return str(value) if isinstance(value, int) and abs(value) > _EXACT else value


def _general(prompt: Any, line: Mapping[str, Any]) -> Any:
    """The prompt with ``{}`` for the line's only style, so that the same prompt in two styles is the same."""
    styles = line.get("styles")
    if not isinstance(prompt, str) or not isinstance(styles, Mapping) or len(styles) != 1:
        return prompt
    return prompt.replace(f"{{{next(iter(styles))}}}", "{}")


def _is_numbers(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(item, int | float) and not isinstance(item, bool) for item in value.values()
    )


def _axis(name: str, column: list[Any]) -> Axis:
    index: dict[str, int] = {}
    at = [index.setdefault(json.dumps(value, sort_keys=True), len(index)) for value in column]
    values = [json.loads(text) for text in index]
    nested = any(isinstance(value, list | dict) for value in values)
    return Axis(name, values, _labels(values) if nested else [], at)


def _labels(values: Sequence[Any]) -> list[str]:
    """An object of texts, such as styles and their hashes, goes by its keys if this tells the values apart."""
    short = [", ".join(value) if isinstance(value, dict) else "" for value in values]
    if all(short) and len(set(short)) == len(short):
        return short
    return ["" if value is None else _spelt(value) for value in values]


def _spelt(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_spelt(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_spelt(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def default_places(axes: Sequence[Axis]) -> tuple[list[int], list[int]]:
    """Which axes are rows and which are columns at first, as indices of ``axes``, the outermost first.

    Prompts are the rows, or what comes next where there is only one; what else tells pictures apart, the columns. An
    axis takes no place if those before it determine it (a hash, given the name; a time taken, given all else). With
    one axis only there are no rows: the pictures flow.
    """

    def rank(i: int) -> tuple[bool, int]:
        axis = axes[i]
        known = axis.name in _OUTERMOST
        measured = not known and 2 * len(axis.values) > len(axis.at) > 4
        return measured, _OUTERMOST.index(axis.name) if known else len(_OUTERMOST)

    placed: list[int] = []
    groups = [0] * max((len(axis.at) for axis in axes), default=0)
    for i in sorted((i for i, axis in enumerate(axes) if len(axis.values) > 1), key=rank):
        pairs = list(zip(groups, axes[i].at, strict=True))
        finer = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        if len(finer) > len(set(groups)):
            placed.append(i)
            groups = [finer[pair] for pair in pairs]
    return (placed[:1], placed[1:]) if len(placed) > 1 else ([], placed)


# Pictures and thumbnails


def _examine(folder: Path, line: Mapping[str, Any]) -> _Picture | str:
    """The picture of a line, or what is wrong with it."""
    if line.get("error") is not None:
        return str(line["error"]) or "failed"
    file = line.get("file")
    if not isinstance(file, str) or not file:
        return "the manifest names no file"
    name = os.path.normpath(file)
    if os.path.isabs(name) or name.split(os.sep)[0] == os.pardir:
        return "the manifest names a file outside of its folder"
    try:
        content = (folder / name).read_bytes()
        with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            size = image.size
            image.verify()
    except FileNotFoundError:
        return "the picture's file is missing"
    except Exception as error:  # what damage makes of Pillow's parsers is open
        return f"the picture's file cannot be read: {error}"
    url = "/".join(urllib.parse.quote(os.fsencode(part), safe="") for part in Path(name).parts)
    return _Picture(folder / name, url, size, hashlib.sha256(content).digest())


def _box(pictures: Iterable[_Picture | None]) -> tuple[int, int]:
    """Width and height of the place of a thumbnail, the same for all: enough for each of them."""
    sizes = {picture.thumbnail for picture in pictures if picture}
    if not sizes:
        return THUMBNAIL, THUMBNAIL
    return max(width for width, _ in sizes), max(height for _, height in sizes)


def _parts(pictures: Sequence[_Picture | None]) -> list[Sequence[_Picture | None]]:
    """A part per atlas. A picture that failed keeps its place, so that it disturbs no other when it is painted."""
    count = ATLAS_COLUMNS * ATLAS_ROWS
    return [pictures[start : start + count] for start in range(0, len(pictures), count)]


def _write_atlas(folder: Path, pictures: Sequence[_Picture | None], box: tuple[int, int]) -> dict[str, Any] | None:
    """Thumbnails side by side, :data:`ATLAS_COLUMNS` in a row; None if there is no picture to show."""
    if not any(pictures):
        return None
    shape = repr((THUMBNAIL, ATLAS_COLUMNS, box, sorted(_JPEG.items())))
    key = hashlib.sha256(shape.encode() + b"".join(picture.digest if picture else b"-" for picture in pictures))

    def atlas() -> Image.Image:
        rows = -(-len(pictures) // ATLAS_COLUMNS)
        sheet = Image.new("RGB", (min(len(pictures), ATLAS_COLUMNS) * box[0], rows * box[1]), "#808080")
        for i, picture in enumerate(pictures):
            if picture:
                place = (i % ATLAS_COLUMNS * box[0], i // ATLAS_COLUMNS * box[1])
                _paste(sheet, picture, place)
        return sheet

    return {"file": _write_once(folder, key.hexdigest(), atlas)}


def _paste(sheet: Image.Image, picture: _Picture, place: tuple[int, int]) -> None:
    try:
        image = images.load(picture.path)
    except UserError:
        return  # sound by its checksums, and yet it does not decode: its place stays grey
    sheet.paste(image.resize(picture.thumbnail, Image.Resampling.LANCZOS), place)


def _write_style_pictures(folder: Path, pictures: Mapping[str, str | Path]) -> dict[str, dict[str, Any]]:
    written = {}
    for name, path in pictures.items():
        try:
            image = images.load(path)
        except UserError as error:
            warnings.warn(f"the picture of the style {name} is left out: {error}", stacklevel=3)
            continue
        image.thumbnail((STYLE_PICTURE, STYLE_PICTURE), Image.Resampling.LANCZOS)
        key = hashlib.sha256(repr((image.size, sorted(_JPEG.items()))).encode() + image.tobytes()).hexdigest()
        written[name] = {"file": _write_once(folder, key, lambda image=image: image), "size": image.size}
    return written


def _write_once(folder: Path, key: str, make: Callable[[], Image.Image]) -> str:
    """Writes a picture under a name made of its key, unless it is there, and returns the name within the folder."""
    name = f"{ATLAS_FOLDER}/{key[:16]}.jpg"
    if not (folder / name).exists():
        buffer = io.BytesIO()
        make().save(buffer, "JPEG", **_JPEG)
        write_atomic(folder / name, buffer.getvalue())
    return name


def _remove_others(folder: Path, kept: Iterable[Mapping[str, Any] | None]) -> None:
    """Removes the sheets that an earlier page showed."""
    names = {Path(item["file"]).name for item in kept if item}
    for path in (folder / ATLAS_FOLDER).glob("*.jpg"):
        if re.fullmatch(r"[0-9a-f]{16}\.jpg", path.name) and path.name not in names:
            path.unlink(missing_ok=True)


# The page


def _html(title: str, data: Mapping[str, Any]) -> bytes:
    """The template with everything in it, and with the right to run this script alone."""
    parts = resources.files("dreamstyler_jax.grids.page")
    style = parts.joinpath("page.css").read_text("utf-8")
    script = '"use strict";\n' + "\n".join(parts.joinpath(name).read_text("utf-8") for name in _SCRIPTS)
    values = {
        "title": html.escape(title),
        "style": style,
        "script": script,
        "style_hash": _csp_hash(style),
        "script_hash": _csp_hash(script),
        "data": _script_json(data),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], parts.joinpath("index.html").read_text("utf-8"))
    return page.encode("utf-8", "replace")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script_json(data: Any) -> str:
    """JSON in plain ASCII that no HTML parser sees markup in: it can end neither a script nor a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
