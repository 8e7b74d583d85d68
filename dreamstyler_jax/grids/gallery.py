"""A grid's folder: pictures, the manifest with a line for each, the definition; what of it is done, safely.

A picture is written to a temporary name, flushed and renamed, and only then gets its line: whatever interrupts a run,
what the manifest lists is whole. Several processes may fill one folder, each with a manifest of its own.
"""

import concurrent.futures
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import remove_temporaries, write_atomic

MANIFEST, DEFINITION = "manifest.jsonl", "grid.yaml"
_PENDING = 64  # pictures that may wait for being written


class Gallery:
    """The pictures in one folder, as far as they are finished.

    Args:
      folder: is made where it does not exist.
      shard: (i, n), which of n processes this is.
      note: what else to record of a cell.

    Attributes:
      manifest: the one that this process writes.
      lines: what the manifests say, by cell id; lines with an ``error`` are of cells that failed.

    Raises:
      UserError: a line of a manifest, other than a last one cut short, cannot be read.
    """

    def __init__(
        self, folder: Path, shard: tuple[int, int] = (0, 1), note: Callable[[Cell], dict[str, Any]] = lambda cell: {}
    ):
        index, count = shard
        self._note = note
        self.folder = folder
        self.manifest = folder / (MANIFEST if count == 1 else f"manifest.{index}-of-{count}.jsonl")
        self.lines = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        lines: dict[str, dict[str, Any]] = {}
        for path in self._manifests():
            for id, line in _read_manifest(path).items():
                if "file" in line or id not in lines:  # what one process painted outweighs another's failure
                    lines[id] = line
        return lines

    def _manifests(self) -> list[Path]:
        return [*self.folder.glob(MANIFEST), *sorted(self.folder.glob("manifest.*-of-*.jsonl"))]

    def check_definition(self, definition: Mapping[str, Any], merge: bool) -> None:
        """Writes down what is painted here, or compares it with what was if there is any picture of that.

        Args:
          definition: all that the pictures depend on, as YAML values.
          merge: whether it may differ from what was.

        Raises:
          UserError: it differs, and may not; or what was cannot be read.
        """
        path = self.folder / DEFINITION
        definition = yaml.safe_load(_yaml(definition))  # as it will be read: YAML makes a space of U+0085
        known = _read_definitions(path) if self.lines and path.exists() else []
        if definition in known:
            return
        if known and not merge:
            changed = [key for key in definition if definition[key] != known[-1].get(key)]
            verb = "differs" if len(changed) == 1 else "differ"
            raise UserError(
                f"{self.folder} holds the pictures of another grid ({', '.join(changed)} {verb}): "
                "choose another --output, or add to it with --merge"
            )
        write_atomic(path, _yaml(*known, definition).encode())

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those without a whole picture: never painted, failed, or with a file that is not what was written."""
        return [cell for cell in cells if not self._is_whole(self.lines.get(cell.id, {}))]

    def listed(self, cells: Iterable[Cell]) -> int:
        """How many of them have been painted at some time."""
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
        """Makes the manifest fit to be continued: a line cut short would spoil the next."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.manifest.exists():
            _write_manifest(self.manifest, _read_manifest(self.manifest).values())

    def save(self, cell: Cell, picture: np.ndarray) -> None:
        """Writes one picture [H, W, 3] in [-1, 1] and, once it is on the disk, its line.

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
        _append_line(self.manifest, json.dumps(line))
        self.lines[cell.id] = line

    def finish(self, cells: Sequence[Cell]) -> None:
        """Puts all lines into one manifest, those of ``cells`` in their order after those of other grids.

        What killed processes left behind goes, too.
        """
        self.lines = self._read()  # other processes may have added to it
        own = dict.fromkeys(cell.id for cell in cells)
        others = [line for id, line in self.lines.items() if id not in own]
        ordered = others + [self.lines[id] for id in own if id in self.lines]
        self.lines = {line["id"]: line for line in ordered}
        _write_manifest(self.folder / MANIFEST, ordered)
        for path in self._manifests():
            if path.name != MANIFEST:
                path.unlink()
        for folder in (self.folder, self.folder / "images"):
            remove_temporaries(folder)


class Writer:
    """Writes pictures behind the painter's back: one thread, as many waiting as memory has room for.

    A context manager; leaving it waits for everything handed over.

    Attributes:
      failed: cells that could not be written, each with the reason.
    """

    def __init__(self, gallery: Gallery):
        self._gallery, self.failed = gallery, list[tuple[Cell, str]]()
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "writer")
        self._pending: list[tuple[Cell, concurrent.futures.Future[None]]] = []

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        with self._pool:
            self._settle(0)

    def save(self, cell: Cell, picture: np.ndarray) -> None:
        """Hands a picture over; waits where too many are waiting already."""
        self._pending.append((cell, self._pool.submit(self._gallery.save, cell, picture)))
        self._settle(_PENDING)

    def _settle(self, most: int) -> None:
        while len(self._pending) > most:
            cell, future = self._pending.pop(0)
            try:
                future.result()
            except (OSError, ValueError) as error:
                self.failed.append((cell, str(error)))


def _write_manifest(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _append_line(path: Path, line: str) -> None:
    """Adds a line and flushes it to the disk; a file that it cannot be added to in full stays as it was."""
    content = line.encode() + b"\n"
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(size)
            raise


def _yaml(*documents: Mapping[str, Any]) -> str:
    return yaml.safe_dump_all(map(dict, documents), sort_keys=False, allow_unicode=True, width=120)


def _read_definitions(path: Path) -> list[dict[str, Any]]:
    try:
        definitions = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError):
        definitions = [None]
    if not all(isinstance(definition, dict) for definition in definitions):
        raise UserError(f"{path} is damaged: remove it, or choose another output")
    return definitions


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The complete lines of a manifest by cell id, the last one of each counting."""
    try:
        lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        return {line["id"]: line for line in lines}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, or choose another output") from error
