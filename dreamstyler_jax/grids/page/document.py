"""The page itself: one HTML document with its data, its script and its style sheet."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from dreamstyler_jax.grids.page.axes import Axis, default_places, find_axes
from dreamstyler_jax.grids.page.thumbnails import (
    ATLAS_COLUMNS,
    ATLAS_ROWS,
    THUMBNAIL_SIDE,
    Picture,
    examine,
    remove_unused,
    split_into_atlases,
    thumbnail_box,
    write_atlas,
    write_style_pictures,
)
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.files import write_atomic

FILE_NAME = "index.html"

# in the order in which the page holds them
_STYLES = ("base.css", "header.css", "grid.css", "dialogs.css", "stage.css", "export.css", "narrow.css")
_SCRIPTS = (
    "elements.js",
    "storage.js",
    "labels.js",
    "model.js",
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
    "playing.js",
    "compare.js",
    "link.js",
    "picture.js",
    "export.js",
    "main.js",
)


def write_page(
    folder: str | Path,
    lines: Iterable[Mapping[str, Any]],
    *,
    title: str,
    style_pictures: Iterable[tuple[str, Image.Image]] = (),
) -> Path:
    """Writes the page of the pictures in a manifest, and the thumbnails that it shows.

    A line of the manifest is an object with ``id``, with ``file`` (relative to the folder) or, if the picture failed,
    ``error``, and with ``command``, which makes the picture again. All its other fields are parameters, except
    ``sha256``, ``learned_from`` and ``learned_from_hashes``. A picture that is missing, damaged or outside of the
    folder is shown as failed.

    Equal input gives equal bytes. Thumbnails that exist are not made again: their files are named after a digest of
    what they show.

    Args:
        folder: the folder with the pictures; the page goes there as well.
        lines: the lines of the manifest, each id once.
        title: the page's heading.
        style_pictures: each style, by its name in ``style`` and ``styles`` of the lines, with the picture that it was
            learned from, in RGB and of any size.

    Returns:
        The path of the page.

    Raises:
        OSError: the page cannot be written.
    """
    folder, lines = path_of(folder), list(lines)
    with ThreadPoolExecutor() as pool:
        examined = list(pool.map(lambda line: examine(folder, line), lines))
        pictures = [item if isinstance(item, Picture) else None for item in examined]
        box = thumbnail_box(pictures)
        atlases = list(pool.map(lambda part: write_atlas(folder, part, box), split_into_atlases(pictures)))
    styles = write_style_pictures(folder, style_pictures)
    axes = find_axes(lines, [item if isinstance(item, str) else None for item in examined])
    rows, columns = default_places(axes)
    data = {
        "title": title,
        "thumbnail": THUMBNAIL_SIDE,
        "box": box,
        "atlas": {"columns": ATLAS_COLUMNS, "rows": ATLAS_ROWS, "files": atlases},
        "styles": styles,
        "axes": [{"name": axis.name, "values": axis.values, "labels": axis.labels} for axis in axes],
        "rows": rows,
        "columns": columns,
        "cells": _cells(lines, examined, axes),
    }
    path = folder / FILE_NAME
    write_atomic(path, _document(title, data))
    remove_unused(folder, [*filter(None, atlases), *(style["file"] for style in styles.values())])
    return path


def _cells(
    lines: Sequence[Mapping[str, Any]], examined: Sequence[Picture | str], axes: Sequence[Axis]
) -> list[dict[str, Any]]:
    """What the script knows of each picture: ``at`` holds the index of its value on each axis."""
    return [
        {
            "id": str(line["id"]),
            "at": [axis.indices[i] for axis in axes],
            "command": str(line.get("command", "")),
            **({"error": item} if isinstance(item, str) else {"file": item.url, "size": item.size}),
        }
        for i, (line, item) in enumerate(zip(lines, examined, strict=True))
    ]


def _document(title: str, data: Mapping[str, Any]) -> bytes:
    """Fills the template. The page's content security policy allows no other script and no other style sheet."""
    style = "\n".join(map(_part, _STYLES))
    script = '"use strict";\n' + "\n".join(map(_part, _SCRIPTS))
    values = {
        "title": html.escape(title),
        "style": style,
        "script": script,
        "style_hash": _policy_hash(style),
        "script_hash": _policy_hash(script),
        "data": _script_json(data),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _part("index.html"))
    return page.encode("utf-8", "replace")


def _part(name: str) -> str:
    return resources.files("dreamstyler_jax.grids.page").joinpath(name).read_text("utf-8")


def _policy_hash(text: str) -> str:
    """The hash by which a content security policy names an inline script or style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script_json(data: Any) -> str:
    """JSON in ASCII without ``&``, ``<`` and ``>``, so that an HTML parser finds no markup in it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
