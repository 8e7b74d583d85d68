"""The page itself: one HTML document with its data, its script and its style sheet."""

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

from PIL import Image

from dreamstyler_jax.grids.cells import ABSENT
from dreamstyler_jax.grids.page.axes import Axis, default_places, find_axes
from dreamstyler_jax.grids.page.scores import put_scores
from dreamstyler_jax.grids.page.thumbnails import (
    ATLAS_COLUMNS,
    ATLAS_ROWS,
    NOT_YET,
    THUMBNAIL_SIDE,
    Picture,
    as_recorded,
    examine,
    remove_unused,
    split_into_atlases,
    thumbnail_box,
    write_atlas,
    write_style_pictures,
)
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.documents import parse_json
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import read_file, write_atomic
from dreamstyler_jax.runtime.pages import fill_page

FILE_NAME = "index.html"
FORMAT = 1  # of the page's data; another one if pages of this version could not be made from it

# in the order in which the page holds them
_STYLES = (
    "base.css", "header.css", "grid.css", "dialogs.css", "stage.css", "live.css", "scores.css", "export.css",
    "narrow.css",
)  # fmt: skip
_SCRIPTS = (
    "elements.js",
    "storage.js",
    "labels.js",
    "model.js",
    "settings.js",
    "stars.js",
    "thumbnails.js",
    "layout.js",
    "headers.js",
    "grid.js",
    "cursor.js",
    "fit.js",
    "axes.js",
    "theme.js",
    "stage.js",
    "views.js",
    "scores.js",
    "live.js",
    "playing.js",
    "compare.js",
    "link.js",
    "picture.js",
    "export.js",
    "main.js",
)
# Parameters where nobody has set them: the page leaves them out.
_UNSET = {**ABSENT, "control_start": 0, "control_end": 1, "guess_mode": False}
_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


class Progress(TypedDict):
    """How far the painting of a grid is, as its page says.

    Attributes:
        state: whether it goes on, or was stopped.
        at: when the page was written, in seconds since 1970.
        left: about how many seconds are left; None if that is not known.
        pause: about how many seconds later the page is written again.
    """

    state: Literal["painting", "stopped"]
    at: float
    left: float | None
    pause: float


class Cell(TypedDict):
    """What is read of a cell in a page's data."""

    id: str
    digest: NotRequired[str]


class Data(TypedDict):
    """What is read of a page's data."""

    format: Literal[1]
    title: str
    cells: list[Cell]


def write_page(
    folder: str | Path,
    lines: Iterable[Mapping[str, Any]],
    *,
    title: str,
    style_pictures: Iterable[tuple[str, Image.Image]] = (),
    trust: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes the page of the pictures in a manifest, and the thumbnails that it shows.

    A line of the manifest is an object with ``id``, with ``file`` (relative to the folder) or, if the picture failed,
    ``error``, and with ``command``, which makes the picture again. All its other fields are parameters, except
    ``sha256``, ``learned_from`` and ``learned_from_hashes``. A picture that is missing, damaged or outside of the
    folder is shown as failed, one with the error `NOT_YET` as still to be painted. Scores are those in the folder's
    ``scores.jsonl`` that are of these very pictures.

    Equal input gives equal bytes. Thumbnails that exist are not made again: their files are named after a digest of
    what they show.

    Args:
        folder: the folder with the pictures; the page goes there as well.
        lines: the lines of the manifest, each id once.
        title: the page's heading.
        style_pictures: each style, by its name in ``style`` and ``styles`` of the lines, with the picture that it was
            learned from, in RGB and of any size.
        trust: whether to take the lines' word for the pictures instead of reading them all.
        progress: of a grid that is not finished.

    Returns:
        The path of the page.

    Raises:
        OSError: the page cannot be written.
    """
    folder, lines = path_of(folder), list(lines)
    with ThreadPoolExecutor() as pool:
        look = functools.partial(as_recorded if trust else examine, folder)
        examined = list(map(look, lines) if trust else pool.map(look, lines))
        pictures = [item if isinstance(item, Picture) else None for item in examined]
        box = thumbnail_box(pictures)
        atlases = list(pool.map(lambda part: write_atlas(folder, part, box), split_into_atlases(pictures)))
    styles = write_style_pictures(folder, style_pictures)
    axes = find_axes(lines, [item if isinstance(item, str) else None for item in examined])
    rows, columns = default_places(axes)
    cells = _cells(lines, examined, axes)
    put_scores(folder, cells)
    data = {
        "format": FORMAT,
        "grid": hashlib.sha256("\n".join(cell["id"] for cell in cells).encode("utf-8", "replace")).hexdigest()[:32],
        "progress": progress,
        "title": title,
        "thumbnail": THUMBNAIL_SIDE,
        "box": box,
        "atlas": {"columns": ATLAS_COLUMNS, "rows": ATLAS_ROWS, "files": atlases},
        "styles": styles,
        "axes": [{"name": axis.name, "values": axis.values, "labels": axis.labels} for axis in axes],
        "rows": rows,
        "columns": columns,
        "cells": cells,
    }
    path = folder / FILE_NAME
    write_atomic(path, _document(data))
    remove_unused(folder, [*filter(None, atlases), *(style["file"] for style in styles.values())])
    return path


def refresh_page(folder: Path) -> bool:
    """Writes a folder's page again, with the scores that are there by now.

    Returns:
        Whether there is a page, of this version.

    Raises:
        OSError: the page cannot be written.
    """
    path = folder / FILE_NAME
    try:
        found = _DATA.search(read_file(path).decode("utf-8", "replace"))
        data = parse_json(found[1] if found else "", Data, str(path))
    except UserError:
        return False
    put_scores(folder, cast(list[dict[str, Any]], data["cells"]))
    write_atomic(path, _document(data))
    return True


def _cells(
    lines: Sequence[Mapping[str, Any]], examined: Sequence[Picture | str], axes: Sequence[Axis]
) -> list[dict[str, Any]]:
    """What the script knows of each picture: ``at`` holds the index of its value on each axis."""
    return [
        {
            "id": str(line["id"]),
            "at": [axis.indices[i] for axis in axes],
            "command": str(line.get("command", "")),
            **(_failure(item) if isinstance(item, str) else _found(item)),
        }
        for i, (line, item) in enumerate(zip(lines, examined, strict=True))
    ]


def _failure(reason: str) -> dict[str, Any]:
    return {"error": reason, **({"waiting": True} if reason == NOT_YET else {})}


def _found(picture: Picture) -> dict[str, Any]:
    return {"file": picture.url, "size": picture.size, "digest": picture.digest.hex()}


def _document(data: Mapping[str, Any]) -> bytes:
    """Fills the template."""
    style = "\n".join(map(_part, _STYLES))
    script = '"use strict";\n' + "\n".join(map(_part, _SCRIPTS))
    parts = {"data": _script_json({**data, "unset": _UNSET})}
    return fill_page(_part("index.html"), data["title"], style, script, parts)


def _part(name: str) -> str:
    return resources.files("dreamstyler_jax.grids.page").joinpath(name).read_text("utf-8")


def _script_json(data: Any) -> str:
    """JSON in ASCII without ``&``, ``<`` and ``>``, so that an HTML parser finds no markup in it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
