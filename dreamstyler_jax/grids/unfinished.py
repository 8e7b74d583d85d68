"""The grids that were begun in a folder and are not finished, until they are: ``unfinished.json``.

A manifest lists what is painted, and not what was asked for. This file does, as long as there is a difference.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from dreamstyler_jax.runtime.files import read_json, write_json

UNFINISHED = "unfinished.json"


def read_unfinished(folder: Path) -> dict[str, list[str]]:
    """The ids of all pictures of each grid that is not finished, by the command that paints the grid.

    Raises:
        UserError: the file cannot be read.
    """
    path = folder / UNFINISHED
    advice = "delete it: it only says what is left to paint"
    return read_json(path, dict[str, list[str]], advice=advice) if path.is_file() else {}


def note_begun(folder: Path, command: str, ids: Sequence[str]) -> None:
    """Writes down that a grid is begun, or continued, maybe by another command than before."""
    others = {other: wanted for other, wanted in read_unfinished(folder).items() if not set(wanted) <= set(ids)}
    write_json(folder / UNFINISHED, {**others, command: list(ids)})


def note_painted(folder: Path, ids: Collection[str]) -> None:
    """Forgets the grids whose pictures are all painted, and the file with the last of them."""
    before = read_unfinished(folder)
    left = {command: wanted for command, wanted in before.items() if not set(wanted) <= set(ids)}
    if left and left != before:
        write_json(folder / UNFINISHED, left)
    elif before and not left:
        (folder / UNFINISHED).unlink()
