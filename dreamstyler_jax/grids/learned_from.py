"""The pictures that the styles of a grid were learned from: what the manifest says of them, and what the page shows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.provenance import TrainingPicture, first_picture, training_pictures
from dreamstyler_jax.style import Style, StyleRef


def learned_from(cell: Cell, styles: Mapping[str, Style]) -> dict[str, dict[str, str]]:
    """What the manifest says of the first training picture of each style of a cell that knows one: paths and hashes.

    Args:
        cell: the cell.
        styles: by ``str(StyleRef)``.
    """
    pictures = {name: training_pictures(styles[ref].metadata)[:1] for name, ref in _refs(cell).items()}
    return {
        "learned_from": {name: picture.path for name, found in pictures.items() for picture in found},
        "learned_from_hashes": {name: picture.hash for name, found in pictures.items() for picture in found},
    }


def style_pictures(
    lines: Iterable[Mapping[str, Any]], cells: Sequence[Cell], styles: Mapping[str, Style]
) -> Iterator[tuple[str, Image.Image]]:
    """The name of each style in a folder with the first picture that it was learned from, in RGB.

    Args:
        lines: of the folder's manifest, which also know pictures of styles that are not here any more.
        cells: the grid.
        styles: its styles, by ``str(StyleRef)``, as far as they are here; they remember how their pictures look.
    """
    recorded = {name: picture for line in lines for name, picture in _recorded(line).items()}
    refs = {name: ref for cell in cells for name, ref in _refs(cell).items() if ref in styles}
    for name in {**recorded, **refs}:
        picture = first_picture(styles[refs[name]].metadata) if name in refs else recorded[name].seen()
        if picture:
            yield name, picture


def _refs(cell: Cell) -> dict[str, str]:
    return {name: str(StyleRef.parse(name).at(cell.checkpoint)) for name in cell.styles}


def _recorded(line: Mapping[str, Any]) -> dict[str, TrainingPicture]:
    """What a line says; lines of earlier versions know no hashes."""
    paths, hashes = (_texts(line.get(key)) for key in ("learned_from", "learned_from_hashes"))
    return {name: TrainingPicture(path, hashes.get(name, "")) for name, path in paths.items()}


def _texts(value: Any) -> dict[str, str]:
    items = value.items() if isinstance(value, dict) else ()
    return {name: text for name, text in items if isinstance(text, str)}
