"""A grid's folder: pictures, a manifest with a line for each, and the grid's definition, safe against interruption.

A picture is written to a temporary name, flushed, renamed, and only then listed. So whatever interrupts a run, the
manifest lists whole pictures only. Several processes may fill one folder, each with a manifest of its own. In a bucket
each picture is one object, and the manifest is one that is written again and again, behind the pictures that it lists.
"""

import concurrent.futures
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml

from dreamstyler_jax.grids.cells import ABSENT, Cell, id_of_line
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.buckets import in_bucket
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import remove_temporaries, write_atomic
from dreamstyler_jax.runtime.growing_files import growing_file

MANIFEST, DEFINITION = "manifest.jsonl", "grid.yaml"
_MANIFESTS = re.compile(r"manifest(\..*-of-.*)?\.jsonl")
MAX_PENDING = 64  # pictures that may wait for the writer


class Gallery:
    """The finished pictures of one folder.

    Args:
        folder: is created when the first picture is written.
        shard: (i, n): this is process i of n.
        note: what else to record of a cell.

    Attributes:
        manifest: the file that this process writes.
        lines: the manifests' lines by cell id; a line with an ``error`` belongs to a cell that failed.

    Raises:
        UserError: a line of a manifest cannot be read, except for a last line that was cut short.
    """

    def __init__(
        self, folder: Path, shard: tuple[int, int] = (0, 1), note: Callable[[Cell], dict[str, Any]] = lambda cell: {}
    ):
        index, count = shard
        self._note = note
        self.folder = folder
        self.manifest = folder / (MANIFEST if count == 1 else f"manifest.{index}-of-{count}.jsonl")
        self.lines = self._read()
        self._growing = growing_file(self.manifest)

    def _read(self) -> dict[str, dict[str, Any]]:
        lines: dict[str, dict[str, Any]] = {}
        for path in self._manifests():
            for id, line in _read_manifest(path).items():
                if "file" in line or id not in lines:  # a painted picture outweighs another process's failure
                    lines[id] = line
        return lines

    def _manifests(self) -> list[Path]:
        found = [path for path in self.folder.glob("manifest*.jsonl") if _MANIFESTS.fullmatch(path.name)]
        return sorted(found, key=lambda path: (path.name != MANIFEST, path.name))

    def holds_another(self, definition: Mapping[str, Any]) -> list[str]:
        """The parameters in which the grid of this folder differs; empty if it is this one or there is none.

        Raises:
            UserError: the folder's definition cannot be read.
        """
        known, wanted = self._definitions(), _as_yaml(definition)
        if not known or any(_is_same(wanted, other) for other in known):
            return []
        last = {**ABSENT, **known[-1]}
        return [key for key in wanted | last if wanted.get(key) != last.get(key)]

    def define(self, definition: Mapping[str, Any]) -> None:
        """Writes down what is painted here, after what was painted here before."""
        known, wanted = self._definitions(), _as_yaml(definition)
        today = [wanted if _is_same(wanted, other) else {**ABSENT, **other} for other in known]
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
            whole = pool.map(lambda cell: self._is_whole(self.lines.get(cell.id, {})), cells)
            return [cell for cell, is_whole in zip(cells, whole, strict=True) if not is_whole]

    def listed(self, cells: Iterable[Cell]) -> int:
        """How many of the cells have been painted at some time."""
        return sum("file" in self.lines.get(cell.id, {}) for cell in cells)

    def _is_whole(self, line: Mapping[str, Any]) -> bool:
        if "file" not in line:
            return False
        try:
            content = (self.folder / line["file"]).read_bytes()
        except OSError:
            return False
        return hashlib.sha256(content).hexdigest() == line.get("sha256")

    def begin(self) -> None:
        """Prepares the manifest for more lines: appending to a line cut short would spoil both."""
        if in_bucket(self.folder):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.manifest.exists():
            _write_manifest(self.manifest, _read_manifest(self.manifest).values())

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
        file = f"images/{cell.id}.png"
        content = images.to_png(images.to_image(picture), cell.text())
        write_atomic(self.folder / file, content)
        self._append({"file": file, "sha256": hashlib.sha256(content).hexdigest()}, cell)

    def fail(self, cell: Cell, reason: str) -> None:
        """Records that a cell could not be painted."""
        self._append({"error": reason}, cell)

    def _append(self, result: Mapping[str, str], cell: Cell) -> None:
        line = {"id": cell.id, **result, **cell.parameters(), **self._note(cell)}
        self._growing.write(json.dumps(line).encode() + b"\n")
        self.lines[cell.id] = line

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


class Writer:
    """Writes pictures in a thread of its own while the next ones are painted.

    A context manager; leaving it waits for everything handed over.

    Args:
        gallery: where to write.
        max_pending: how many pictures may wait.

    Attributes:
        failed: cells that could not be written, each with the reason.
    """

    def __init__(self, gallery: Gallery, max_pending: int = MAX_PENDING):
        self._gallery, self._max_pending = gallery, max_pending
        self.failed: list[tuple[Cell, str]] = []
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "writer")
        self._pending: list[tuple[Cell, concurrent.futures.Future[None]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        with self._pool:
            self._settle(0)

    def save(self, cell: Cell, picture: np.ndarray) -> None:
        """Hands a picture over; waits while too many are waiting already."""
        self._pending.append((cell, self._pool.submit(self._gallery.save, cell, picture)))
        self._settle(self._max_pending)

    def _settle(self, max_pending: int) -> None:
        while len(self._pending) > max_pending:
            cell, future = self._pending.pop(0)
            try:
                future.result()
            except (OSError, ValueError) as error:
                self.failed.append((cell, str(error)))


def _write_manifest(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _yaml(*documents: Mapping[str, Any]) -> str:
    return yaml.safe_dump_all(map(dict, documents), sort_keys=False, allow_unicode=True, width=120)


def _as_yaml(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition as it will be read again: YAML makes a space of U+0085, for example."""
    return yaml.safe_load(_yaml(definition))


def _read_definitions(path: Path) -> list[dict[str, Any]]:
    """The definitions in a file; those of older versions lack parameters."""
    try:
        definitions = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError):
        definitions = [None]
    if not all(isinstance(definition, dict) for definition in definitions):
        raise UserError(f"{path} is damaged: remove it, or choose another output")
    return [definition for definition in definitions if definition]


def _is_same(wanted: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a definition read from a file is this one, also if an older version wrote it.

    Older versions left out the values in `ABSENT`, also where only some of the cells had them.
    """
    older = dict(wanted)
    for name, absent in ABSENT.items():
        values = older.pop(name) if isinstance(wanted[name], list) else [older.pop(name)]
        others = [value for value in values if value != absent]
        if others:
            older[name] = others[0] if len(others) == 1 else others
    return known in (wanted, older)


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The complete lines of a manifest by cell id; of several lines for one cell the last counts."""
    try:
        lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        return {line["id"]: line for line in map(_as_of_today, lines)}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, or choose another output") from error


def _as_of_today(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line with all parameters, also if an older version wrote it, and with its cell's id of today."""
    added = {name: value for name, value in ABSENT.items() if name not in line}
    return {**line, **added, "id": id_of_line(line)}
