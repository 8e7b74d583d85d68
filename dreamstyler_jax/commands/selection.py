"""The pictures that a user chose from a finished grid: by the list that its page saves, by a text file, or by ids."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple, NotRequired, TypedDict

from dreamstyler_jax.grids.cells import Cell, cell_of_line
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.documents import parse_json
from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.runtime.files import read_file, text_of
from dreamstyler_jax.runtime.settings import check_values, option

NOTE = "note"  # what the user wrote about a picture, in the list and in manifests
_ADVICE = 'each line should read like {"id": "0123456789abcdef"}'


@dataclasses.dataclass(frozen=True)
class SelectionOptions:
    """Which pictures of a grid.

    Raises:
        UserError: no grid is given.
    """

    grid: str = option("", "The grid's folder; --grid can be left out, as in out/boat.", positional=True)
    cells: list[str] = option(
        [],
        "The pictures: the list of starred ones that the grid's page saves (.jsonl), a text file (.txt) with an id or "
        "a file's name per line, or ids and names themselves. Default: all pictures.",
    )

    def __post_init__(self):
        check_values(self)
        if not self.grid:
            raise UserError("grid: give the folder of a finished grid, such as out/boat")

    def beside(self, ending: str) -> str:
        """A folder beside the grid's, such as ``out/boat-enlarged``."""
        folder = path_of(self.grid)
        if folder.name in ("", ".."):
            folder = folder.resolve()
        return str(folder.parent / f"{folder.name}-{ending}")


class Chosen(NamedTuple):
    """A picture of a finished grid.

    Attributes:
        cell: everything that determines it.
        line: its line of the manifest, with the user's note if there is one.
        file: its file.
    """

    cell: Cell
    line: Mapping[str, Any]
    file: Path


class _Starred(TypedDict):
    """A line of a list; the page's has further keys."""

    id: NotRequired[str]
    file: NotRequired[str]
    note: NotRequired[str]


def choose(grid: str, words: Sequence[str]) -> list[Chosen]:
    """The pictures of a grid that a user asks for, in the order of the list, each once; all of them without a list.

    Args:
        grid: the grid's folder.
        words: lists in files, ids and files' names, as in the settings.

    Raises:
        UserError: there is no grid, a list cannot be read, or a picture is not there or damaged.
    """
    folder = path_of(grid)
    if not folder.is_dir():
        raise UserError(f"grid: there is no folder {grid}; give one that dreamstyler sample painted into")
    gallery = Gallery(folder)
    painted = {line["id"]: line for line in gallery.lines.values() if gallery.file_of(line)}
    if not painted:
        raise UserError(f"grid: {grid} has no painted pictures; give a folder that dreamstyler sample painted into")
    by_name = {**{PurePath(line["file"]).name: line for line in painted.values()}, **painted}
    found: dict[str, dict[str, Any]] = {}
    unknown = []
    for entry in _entries(words) if words else ({"id": id} for id in painted):
        names = [entry.get("id", ""), PurePath(entry.get("file", "")).name]
        line = next((by_name[name] for name in names if name in by_name), None)
        if line is None:
            unknown.append(names[0] or names[1])
        else:
            chosen_before = found.get(line["id"], line)
            note = entry.get("note")
            found[line["id"]] = {**chosen_before, NOTE: note} if note else chosen_before
    if unknown:
        raise UserError(f"cells: {grid} has no picture {listing(unknown)}; the page shows each picture's id")
    chosen = [_chosen(gallery, line) for line in found.values()]
    if damaged := gallery.missing([picture.cell for picture in chosen]):
        files = listing([str(gallery.lines[cell.id]["file"]) for cell in damaged])
        raise UserError(f"cells: {files} in {grid} is missing or damaged: paint it again, with the grid's command")
    return chosen


def _chosen(gallery: Gallery, line: dict[str, Any]) -> Chosen:
    file = gallery.file_of(line)
    assert file is not None, "only lines with a file are chosen"
    return Chosen(cell_of_line(line, str(gallery.manifest)), line, file)


def _entries(words: Sequence[str]) -> Iterator[_Starred]:
    """What the words and the files that they name ask for.

    Raises:
        UserError: a file cannot be read, or holds no line.
    """
    for word in words:
        suffix = PurePath(word).suffix.lower()
        if suffix not in (".jsonl", ".txt"):
            yield {"id": word, "file": word}
            continue
        try:
            lines = text_of(read_file(word, advice="save it again on the grid's page")).split("\n")
        except UnicodeDecodeError:
            raise UserError(f"cells: {word} is not UTF-8 text") from None
        numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
        if not numbered:
            raise UserError(f"cells: {word} lists no picture")
        for number, line in numbered:
            if suffix == ".txt":
                yield {"id": line, "file": line}
                continue
            entry = parse_json(line, _Starred, f"cells: line {number} of {word}", _ADVICE)
            if not entry.get("id") and not entry.get("file"):
                raise UserError(f"cells: line {number} of {word} names no picture; {_ADVICE}")
            yield entry
