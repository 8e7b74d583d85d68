"""A grid's folder: pictures, a manifest with a line for each, and the grid's definition, safe against interruption.

A picture is written to a temporary name, flushed, renamed, and only then listed. So whatever interrupts a run, the
manifest lists whole pictures only. Several processes may fill one folder, each with a manifest of its own. In a bucket
each picture is one object, and the manifest is one that is written again and again, behind the pictures that it lists.
"""

import concurrent.futures
import glob
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict

import numpy as np
import yaml

from dreamstyler_jax.grids.cells import ABSENT, UNRECORDED, Cell, id_of_line
from dreamstyler_jax.grids.file_names import BY_ID, name_files
from dreamstyler_jax.grids.unfinished import UNFINISHED
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.buckets import in_bucket
from dreamstyler_jax.runtime.documents import FileText, check, parse_json, parse_yaml
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import check_own, inside, read_file, remove_temporaries, write_atomic
from dreamstyler_jax.runtime.growing_files import growing_file
from dreamstyler_jax.runtime.picture_files import SUFFIXES, to_bytes

MANIFEST, DEFINITION = "manifest.jsonl", "grid.yaml"
_SHARDS = "manifest.*-of-*.jsonl"
# Besides the manifest and files named after ids.
_WRITTEN = (DEFINITION, UNFINISHED, "index.html", "grid.png", "grid_*.png")
_ADVICE = "remove it, or choose another output"
_RECORDED = {name: value for name, value in ABSENT.items() if name not in UNRECORDED}


class Line(TypedDict):
    """A line of a manifest: what became of a cell, and those of its parameters that are looked at again."""

    prompt: str
    style: str
    styles: dict[str, str]
    model: str
    model_hash: NotRequired[str]
    checkpoint: NotRequired[int]
    loras: NotRequired[str]
    content: NotRequired[FileText]
    file: NotRequired[str]  # which counts inside of the folder alone
    sha256: NotRequired[str]
    error: NotRequired[str]
    learned_from: NotRequired[dict[str, FileText]]
    learned_from_hashes: NotRequired[dict[str, str]]


class Gallery:
    """The finished pictures of one folder.

    Args:
        folder: is created when the first picture is written.
        shard: (i, n): this is process i of n.
        note: what else to record of a cell.
        settings: `Cell.model_settings` by `Cell.model_hash`, for pictures of earlier versions, which did not record it.

    Attributes:
        manifest: the file that this process writes.
        lines: the manifests' lines by cell id; a line with an ``error`` belongs to a cell that failed.

    Raises:
        UserError: a line of a manifest cannot be read, except for a last line that was cut short.
    """

    def __init__(
        self,
        folder: Path,
        shard: tuple[int, int] = (0, 1),
        note: Callable[[Cell], dict[str, Any]] = lambda cell: {},
        settings: Mapping[str, str] = MappingProxyType({}),
    ):
        index, count = shard
        self._note, self._settings = note, settings
        self._files: dict[str, str] = {}  # by cell id, in the folder images
        self.folder = folder
        self.manifest = folder / (MANIFEST if count == 1 else f"manifest.{index}-of-{count}.jsonl")
        self.lines = self._read()
        self._growing = growing_file(self.manifest)

    def _read(self) -> dict[str, dict[str, Any]]:
        lines: dict[str, dict[str, Any]] = {}
        for path in self._manifests():
            for id, line in _read_manifest(path, self._settings).items():
                if "file" in line or id not in lines:  # a painted picture outweighs another process's failure
                    lines[id] = line
        return lines

    def _manifests(self) -> list[Path]:
        return [*self.folder.glob(MANIFEST), *sorted(self.folder.glob(_SHARDS))]

    def holds_another(self, definition: Mapping[str, Any]) -> list[str]:
        """The parameters in which the grid of this folder differs; empty if it is this one or there is none.

        Raises:
            UserError: the folder's definition cannot be read.
        """
        known, wanted = self._definitions(), _as_yaml(definition)
        if not known or any(_is_same(wanted, other) for other in known):
            return []
        last = {**_RECORDED, **known[-1]}
        return [key for key in wanted | last if wanted.get(key) != last.get(key)]

    def check_own(self, files: Iterable[str] = ()) -> None:
        """Raises a UserError if the folder holds files that would be replaced, and no manifest of ours.

        Args:
            files: names in the folder of pictures that will be added.
        """
        named = [f"images/{file}" for id, file in self._files.items() if Path(file).stem != id]
        there = [glob.escape(file) for file in (*named, *files) if (self.folder / file).exists()]
        check_own(self.folder, (*_WRITTEN, *there), (MANIFEST, _SHARDS))

    def define(self, definition: Mapping[str, Any]) -> None:
        """Writes down what is painted here, after what was painted here before."""
        known, wanted = self._definitions(), _as_yaml(definition)
        if not self.manifest.exists():
            write_atomic(self.manifest, b"")  # from now on the folder can be seen to be of a grid
        today = [wanted if _is_same(wanted, other) else {**_RECORDED, **other} for other in known]
        if wanted not in today:
            today.append(wanted)
        if today != known:
            write_atomic(self.folder / DEFINITION, _yaml(*today).encode())

    def _definitions(self) -> list[dict[str, Any]]:
        path = self.folder / DEFINITION
        return _read_definitions(path) if self.lines and path.exists() else []

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells without a whole picture: never painted, failed, or with a file that is not what was written."""
        cells = list(cells)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            whole = pool.map(lambda cell: self.is_whole(self.lines.get(cell.id, {})), cells)
            return [cell for cell, is_whole in zip(cells, whole, strict=True) if not is_whole]

    def listed(self, cells: Iterable[Cell]) -> int:
        """How many of the cells have been painted at some time."""
        return sum("file" in self.lines.get(cell.id, {}) for cell in cells)

    def file_of(self, line: Mapping[str, Any]) -> Path | None:
        """The picture of a line; None if there is none, or it is said to be outside of the folder."""
        return inside(self.folder, line.get("file"))

    def is_whole(self, line: Mapping[str, Any]) -> bool:
        """Whether the picture of a line is there and what was written."""
        file = self.file_of(line)
        try:
            content = file.read_bytes() if file else b""
        except OSError:
            return False
        return hashlib.sha256(content).hexdigest() == line.get("sha256")

    def name_files(self, cells: Sequence[Cell], pattern: str = BY_ID) -> None:
        """Chooses the names of the pictures of a grid, see `file_names`; without this they are their cells' ids."""
        names = name_files(cells, pattern, self._kept_names())
        self._files = {cell.id: f"{names[cell.id]}{SUFFIXES[cell.format]}" for cell in cells}

    def other_names(self) -> int:
        """How many of the pictures named are there already under another name, which stays."""
        kept = self._kept_names()
        return sum(kept.get(id, Path(file).stem) != Path(file).stem for id, file in self._files.items())

    def _kept_names(self) -> dict[str, str]:
        return {id: Path(line["file"]).stem for id, line in self.lines.items() if "file" in line}

    def begin(self) -> None:
        """Prepares the manifest for more lines: appending to a line cut short would spoil both."""
        if in_bucket(self.folder):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.manifest.exists():
            _write_manifest(self.manifest, _read_manifest(self.manifest, self._settings).values())

    def close(self) -> None:
        """Waits until the manifest holds all lines."""
        self._growing.close()

    def save(self, cell: Cell, picture: np.ndarray) -> None:
        """Writes a picture [H, W, 3] in [-1, 1] and, once it is on the disk, its line.

        Raises:
            ValueError: NaN or Inf in the picture.
            OSError: it cannot be written.
        """
        if not np.isfinite(picture).all():
            raise ValueError("the picture holds NaN or Inf")
        file = f"images/{self._files.get(cell.id, cell.id + SUFFIXES[cell.format])}"
        content = to_bytes(images.to_image(picture), cell.text(), cell.format, cell.quality)
        write_atomic(self.folder / file, content)
        self._append({"file": file, "sha256": hashlib.sha256(content).hexdigest()}, cell)

    def fail(self, cell: Cell, reason: str) -> None:
        """Records that a cell could not be painted."""
        self._append({"error": reason}, cell)

    def add(self, line: Mapping[str, Any], content: bytes) -> None:
        """Writes a picture of another grid as it is, and its line.

        Args:
            line: of the other grid's manifest. Another picture's file of the same name stays; this one is then named
                after its id.
            content: of the file.
        """
        id, file = line["id"], f"images/{PurePath(line['file']).name}"
        if any(other.get("file") == file and other["id"] != id for other in self.lines.values()):
            file = f"images/{id}{PurePath(file).suffix}"
        write_atomic(self.folder / file, content)
        self._write({**line, "file": file})

    def _append(self, result: Mapping[str, str], cell: Cell) -> None:
        self._write({"id": cell.id, **result, **cell.parameters(), **self._note(cell)})

    def _write(self, line: dict[str, Any]) -> None:
        self._growing.write(json.dumps(line).encode() + b"\n")
        self.lines[line["id"]] = line

    def finish(self, cells: Sequence[Cell]) -> None:
        """Joins all manifests into one, with the lines of ``cells`` in their order after those of other grids.

        Also removes what killed processes left behind.
        """
        self.close()
        self.lines = self._read()  # other processes may have added to it
        wanted = dict.fromkeys(cell.id for cell in cells)
        others = [line for id, line in self.lines.items() if id not in wanted]
        ordered = others + [self.lines[id] for id in wanted if id in self.lines]
        self.lines = {line["id"]: line for line in ordered}
        _write_manifest(self.folder / MANIFEST, ordered)
        for path in self._manifests():
            if path.name != MANIFEST:
                path.unlink()
        for folder in (self.folder, self.folder / "images"):
            remove_temporaries(folder)


def _write_manifest(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _yaml(*documents: Mapping[str, Any]) -> str:
    return yaml.safe_dump_all(map(dict, documents), sort_keys=False, allow_unicode=True, width=120)


def _as_yaml(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition as it will be read again: YAML makes a space of U+0085, for example."""
    return yaml.safe_load(_yaml(definition))


def _read_definitions(path: Path) -> list[dict[str, Any]]:
    """The definitions in a file; those of older versions lack parameters."""
    documents = parse_yaml(read_file(path, advice=_ADVICE), str(path), _ADVICE)
    definitions = [check(document, dict[str, Any], str(path), _ADVICE) for document in documents]
    return [definition for definition in definitions if definition]


def _is_same(wanted: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a definition read from a file is this one, also if an older version wrote it.

    Older versions left out the values in `ABSENT`, also where only some of the cells had them.
    """
    older = {name: value for name, value in wanted.items() if name in known or name not in UNRECORDED}
    for name, absent in _RECORDED.items():
        values = older.pop(name) if isinstance(wanted[name], list) else [older.pop(name)]
        others = [value for value in values if value != absent]
        if others:
            older[name] = others[0] if len(others) == 1 else others
    return known in (wanted, older)


def _read_manifest(path: Path, settings: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The complete lines of a manifest by cell id; of several lines for one cell the last counts."""
    texts = read_file(path, advice=_ADVICE).split(b"\n")[:-1]
    lines = [_read_line(text, f"line {number} of {path}", settings) for number, text in enumerate(texts, 1)]
    return {line["id"]: line for line in lines}


def _read_line(text: bytes, where: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """A line with all parameters, also if an older version wrote it, and with its cell's id of today."""
    line: dict[str, Any] = {**parse_json(text, Line, where, _ADVICE)}
    hash = line.get("model_hash", "")
    unrecorded = {"model_settings": settings[hash]} if hash in settings else {}
    added = {name: value for name, value in {**_RECORDED, **unrecorded}.items() if name not in line}
    line |= added
    try:
        return {**line, "id": id_of_line(line)}
    except KeyError as error:
        raise UserError(f"{where} is damaged, it lacks {error}; {_ADVICE}") from None
