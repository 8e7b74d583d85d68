"""Contact sheets of a grid: a row per prompt, a column per seed or what else varies; several where it is large."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.style import Style, at_step

MOST_ROWS, MOST_COLUMNS = 20, 16


_NAMES = ("content", "prompt", "style", "checkpoint", "solver", "steps", "strength", "control_scale", "seed")
AXES: dict[str, Callable[[Cell], Any]] = {
    name: lambda cell, name=name: getattr(cell, name, getattr(cell.repaint, name, None)) for name in _NAMES
}


def axes(cells: Sequence[Cell]) -> list[str]:
    """The names of what varies over the cells: of AXES or of scales, seeds last."""
    *others, seed = AXES
    value = {
        name: AXES.get(name, lambda cell, name=name: cell.scales[name]) for name in (*others, *cells[0].scales, seed)
    }
    return [name for name, of in value.items() if len({of(cell) for cell in cells}) > 1]


class Sheet(NamedTuple):
    """One sheet. ``cells``: rows of cells, None where there is none."""

    title: str
    rows: list[str]
    columns: list[str]
    cells: list[list[Cell | None]]


def layout(cells: Sequence[Cell], title: str) -> list[Sheet]:
    """Divides a grid into sheets.

    Rows are prompts (or, of a single prompt, what else varies first), columns seeds (or what varies last). Each
    combination of the rest has a sheet of its own, cut where it has more than 20 rows or 16 columns.
    """
    varying = axes(cells)
    *rest, column = [axis for axis in varying if axis != "prompt"] or ["seed"]
    row = rest.pop(0) if rest and "prompt" not in varying else "prompt"
    value = {name: AXES.get(name, lambda cell, name=name: cell.scales[name]) for name in (row, column, *rest)}
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(value[name](cell) for name in rest), []).append(cell)
    sheets = []
    for combination, members in groups.items():
        name = ", ".join(map(_label, rest, combination)) or title
        at = {(value[row](cell), value[column](cell)): cell for cell in members}
        rows, columns = (list(dict.fromkeys(keys)) for keys in zip(*at, strict=True))
        for some in _cut(rows, MOST_ROWS):
            for others in _cut(columns, MOST_COLUMNS):
                heads = [_label(column, c) for c in others]
                sides = [r if row == "prompt" else _label(row, r) for r in some]
                sheets.append(Sheet(name, sides, heads, [[at.get((r, c)) for c in others] for r in some]))
    return sheets


def _label(axis: str, value: Any) -> str:
    if (axis, value) == ("style", ""):
        return "styles by name"
    if axis == "content":
        value = Path(value).name
    return f"{axis} {str(value).removesuffix('.0') if isinstance(value, float) else value}"


def _cut(items: list[Any], most: int) -> list[list[Any]]:
    return [items[start : start + most] for start in range(0, len(items), most)]


def write_sheets(
    folder: Path, cells: Sequence[Cell], files: Mapping[str, Path], styles: Mapping[str, Style]
) -> list[Path]:
    """Writes ``grid.png``, or ``grid_001.png`` and so on where it takes several, and returns them.

    Args:
      files: by cell id; cells without a file stay empty.
    """
    sheets = layout(cells, ", ".join(styles))
    originals = _training_pictures(cells, styles)
    digits = max(3, len(str(len(sheets))))
    names = [f"grid_{i + 1:0{digits}d}.png" for i in range(len(sheets))] if len(sheets) > 1 else ["grid.png"]
    for name, sheet in zip(names, sheets, strict=True):
        lead = {head: [picture] * len(sheet.rows) for head, picture in originals.items()}
        if all(contents := [_content(row) for row in sheet.cells]):
            lead["content"] = contents
        pictures = [
            [*before, *(_open(files.get(cell.id)) if cell else None for cell in row)]
            for *before, row in zip(*lead.values(), sheet.cells, strict=True)
        ]
        tile = 256 if len(sheets) == 1 else 128
        sheet_picture = images.contact_sheet(pictures, sheet.rows, [*lead, *sheet.columns], sheet.title, tile)
        images.save_png(folder / name, sheet_picture)
    for old in folder.glob("grid*.png"):
        if old.name not in names and re.fullmatch(r"grid(_\d{3,})?\.png", old.name):
            old.unlink()
    return [folder / name for name in names]


def _open(path: Path | None) -> Image.Image | None:
    return path and images.load(path)


def _content(row: Sequence[Cell | None]) -> Image.Image | None:
    """The picture that a row repaints, if it is one and can still be read."""
    contents = {cell.repaint.content if cell.repaint else "" for cell in row if cell}
    return _readable(contents.pop()) if len(contents) == 1 else None


def _training_pictures(cells: Sequence[Cell], styles: Mapping[str, Style]) -> dict[str, Image.Image]:
    """The first picture of the only style, or of each of two, by its heading, if it can still be read."""
    used = {name: at_step(name, cell.checkpoint) for cell in cells for name in cell.styles}
    if len(used) > 2:
        return {}
    paths = {name: (styles[own].metadata.get("images") or [""])[0] for name, own in used.items()}
    found = {name: picture for name, path in paths.items() if (picture := _readable(path))}
    return {
        "learned from" if len(used) == 1 else name: images.fit(picture, min(picture.size), min(picture.size))
        for name, picture in found.items()
    }


def _readable(path: str) -> Image.Image | None:
    try:
        return images.load(path)
    except UserError:
        return None
