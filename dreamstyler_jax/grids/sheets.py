"""Contact sheets of a grid: a row per prompt and a column per seed, or per other axes; several for a large grid.

In front of each row is the picture that its style was learned from.
"""

import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.guidance import OPTIONAL_SCALES, SCALES
from dreamstyler_jax.provenance import first_picture
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.contact_sheets import contact_sheet
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.loras.recipes import lora_labels
from dreamstyler_jax.style import Style, StyleRef

MAX_ROWS, MAX_COLUMNS = 20, 16
_TILE, _SMALL_TILE = 256, 128  # pixels, on the only sheet and on one of several
_NAMES = ("content", "prompt", "style", "checkpoint", "loras", "solver", "steps", "strength", "control_scale", "seed")


def value_of(cell: Cell, axis: str) -> Any:
    """A cell's value of an axis: one of its parameters, of its repainting's, or one of its scales."""
    if axis in cell.scales or axis in OPTIONAL_SCALES:
        return cell.scales.get(axis, SCALES[axis].default)
    return getattr(cell, axis, getattr(cell.repaint, axis, None))


def axes(cells: Sequence[Cell]) -> list[str]:
    """The names of the axes that vary over the cells; the seed comes last.

    The negative prompt is one where pictures would take each other's place without it, not where others decide it.
    """
    *others, seed = _NAMES
    names = (*others, *dict.fromkeys(name for cell in cells for name in cell.scales), seed)
    varying = [name for name in names if _varies(cells, name)]
    places = {tuple(value_of(cell, name) for name in varying) for cell in cells}
    if len(places) < len(cells) and _varies(cells, "negative_prompt"):
        varying.insert(sum(name in varying for name in ("content", "prompt")), "negative_prompt")
    return varying


def _varies(cells: Sequence[Cell], axis: str) -> bool:
    return len({value_of(cell, axis) for cell in cells}) > 1


class Sheet(NamedTuple):
    """The layout of one sheet.

    Attributes:
        title: a line above.
        rows, columns: their labels.
        cells: rows of cells; None for an empty place.
    """

    title: str
    rows: list[str]
    columns: list[str]
    cells: list[list[Cell | None]]


def layout(cells: Sequence[Cell], title: str) -> list[Sheet]:
    """Divides a grid into sheets.

    Rows are prompts (with a single prompt, the first other axis that varies), columns are seeds (or the last axis that
    varies). If the styles would be the columns, they are the rows, and the prompts the columns. Each combination of the
    remaining axes has its own sheet, cut after 20 rows or 16 columns. Where most combinations are not there, as when
    each prompt has a seed of its own, there is a row per picture instead. Where contents have prompts or seeds of their
    own, rows are contents.
    """
    varying = axes(cells)
    own = [axis for axis in varying if "content" in varying and axis != "content" and _follows(cells, axis)]
    if own:
        row = "content"
        *rest, column = [axis for axis in varying if axis not in (row, *own)] or ["strength"]
    else:
        *rest, column = [axis for axis in varying if axis != "prompt"] or ["seed"]
        row = rest.pop(0) if rest and "prompt" not in varying else "prompt"
    if column == "style":
        row, column, own = "style", "prompt", []
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(value_of(cell, axis) for axis in rest), []).append(cell)
    if rest and len(groups) == len(cells):
        return _list(cells, title, [row, *rest, column])
    sheets = []
    for combination, members in groups.items():
        sheet_title = ", ".join(map(label_of, rest, combination)) or title
        if column == "seed" and row == "prompt" and _is_sparse(members):
            sheets += _list(members, sheet_title, [row, column])
            continue
        at = {(value_of(cell, row), value_of(cell, column)): cell for cell in members}
        labels = {value_of(cell, row): _labels(cell, own or [row]) for cell in members}
        row_values, column_values = (list(dict.fromkeys(values)) for values in zip(*at, strict=True))
        for sheet_rows in _cut(row_values, MAX_ROWS):
            for sheet_columns in _cut(column_values, MAX_COLUMNS):
                row_labels = [labels[value] for value in sheet_rows]
                column_labels = [label_of(column, value) for value in sheet_columns]
                places = [[at.get((r, c)) for c in sheet_columns] for r in sheet_rows]
                sheets.append(Sheet(sheet_title, row_labels, column_labels, places))
    return sheets


def _follows(cells: Sequence[Cell], axis: str) -> bool:
    """Whether the content of a cell decides its value of an axis."""
    contents = {value_of(cell, "content") for cell in cells}
    return len({(value_of(cell, "content"), value_of(cell, axis)) for cell in cells}) == len(contents)


def _is_sparse(cells: Sequence[Cell]) -> bool:
    """Whether at most half of the combinations of prompts and seeds are there."""
    rows, columns = ({value_of(cell, axis) for cell in cells} for axis in ("prompt", "seed"))
    return 1 < len(cells) <= len(rows) * len(columns) / 2


def _list(cells: Sequence[Cell], title: str, axes: Sequence[str]) -> list[Sheet]:
    """Sheets with a row per picture, which the values of these axes label."""
    labels = [_labels(cell, axes) for cell in cells]
    parts = zip(_cut(labels, MAX_ROWS), _cut(list(cells), MAX_ROWS), strict=True)
    return [Sheet(title, of_part, [""], [[cell] for cell in members]) for of_part, members in parts]


def _labels(cell: Cell, axes: Sequence[str]) -> str:
    return ", ".join(label_of(axis, value_of(cell, axis)) for axis in axes)


def label_of(axis: str, value: Any) -> str:
    """A value of an axis as sheets show it."""
    if axis == "prompt":
        return value
    if axis == "negative_prompt":
        return f"negative: {value}" if value else "no negative prompt"
    if (axis, value) == ("style", ""):
        return "styles by name"
    if axis == "content":
        value = Path(value).name
    if axis == "loras":
        (value,) = lora_labels([value])
    return f"{axis} {str(value).removesuffix('.0') if isinstance(value, float) else value}"


def _cut(items: list[Any], length: int) -> list[list[Any]]:
    return [items[start : start + length] for start in range(0, len(items), length)]


def draw_sheet(
    sheet: Sheet,
    picture_of: Callable[[Cell], Image.Image | None],
    leading: Mapping[str, Sequence[Image.Image | None]],
    tile: int = _TILE,
) -> Image.Image:
    """Draws a sheet.

    Args:
        sheet: its layout.
        picture_of: the picture of a cell; None leaves its place empty.
        leading: columns in front of the others, by heading: a picture for each row.
        tile: longest side of a picture in pixels.
    """
    pictures = [
        [*(column[i] for column in leading.values()), *(picture_of(cell) if cell else None for cell in row)]
        for i, row in enumerate(sheet.cells)
    ]
    return contact_sheet(pictures, sheet.rows, [*leading, *sheet.columns], sheet.title, tile)


def write_sheets(
    folder: Path, cells: Sequence[Cell], files: Mapping[str, Path], styles: Mapping[str, Style]
) -> list[Path]:
    """Writes ``grid.png``, or ``grid_001.png`` and so on where one sheet is not enough, and returns their paths.

    Args:
        folder: where to write them; sheets of an earlier grid that are not replaced are removed.
        cells: the grid.
        files: the pictures by cell id; cells without a file stay empty.
        styles: by ``str(StyleRef)``; of those that are not here, no training picture is shown.
    """
    sheets = layout(cells, ", ".join(styles))
    learned_from = functools.cache(lambda ref: _training_picture(styles[ref]) if ref in styles else None)
    digits = max(3, len(str(len(sheets))))
    names = [f"grid_{i + 1:0{digits}d}.png" for i in range(len(sheets))] if len(sheets) > 1 else ["grid.png"]
    for name, sheet in zip(names, sheets, strict=True):
        leading = _training_pictures(sheet, learned_from)
        contents = [_content(row) for row in sheet.cells]
        if all(contents):
            leading["content"] = contents
        tile = _TILE if len(sheets) == 1 else _SMALL_TILE
        images.save_png(folder / name, draw_sheet(sheet, lambda cell: _open(files.get(cell.id)), leading, tile))
    for old in folder.glob("grid*.png"):
        if old.name not in names and re.fullmatch(r"grid(_\d{3,})?\.png", old.name):
            old.unlink()
    return [folder / name for name in names]


def _open(path: Path | None) -> Image.Image | None:
    return images.load(path) if path else None


def _content(row: Sequence[Cell | None]) -> Image.Image | None:
    """The picture that a row repaints, if it is the same in the whole row and can still be read."""
    contents = {cell.repaint.content if cell.repaint else "" for cell in row if cell}
    return _readable(contents.pop()) if len(contents) == 1 else None


def _training_pictures(
    sheet: Sheet, learned_from: Callable[[str], Image.Image | None]
) -> dict[str, list[Image.Image | None]]:
    """Columns, by heading: the first training picture of each row's style, or those of the only two styles."""
    by_row = [list(dict.fromkeys(ref for cell in row if cell for ref in _style_refs(cell))) for row in sheet.cells]
    refs = list(dict.fromkeys(itertools.chain.from_iterable(by_row)))
    if all(len(of_row) == 1 for of_row in by_row):
        columns = {"learned from": [learned_from(ref) for (ref,) in by_row]}
    elif len(refs) <= 2:
        columns = {StyleRef.parse(ref).name: [learned_from(ref)] * len(by_row) for ref in refs}
    else:
        return {}
    return {heading: pictures for heading, pictures in columns.items() if any(pictures)}


def _style_refs(cell: Cell) -> list[str]:
    """The styles of a cell, as they are called in the grid's table of styles."""
    return [str(StyleRef.parse(name).at(cell.checkpoint)) for name in cell.styles]


def _training_picture(style: Style) -> Image.Image | None:
    """The first picture that a style was learned from, cut to a square, if the style knows it."""
    picture = first_picture(style.metadata)
    return picture and images.fit(picture, min(picture.size), min(picture.size))


def _readable(path: str) -> Image.Image | None:
    try:
        return images.load(path)
    except UserError:
        return None
