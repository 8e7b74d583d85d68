"""A grid's folder: pictures, the manifest with a line for each, the definition; what of it is done, safely.

A picture is written to a temporary name, flushed and renamed, and only then gets its line: whatever interrupts a run,
what the manifest lists is whole. Several processes may fill one folder, each with a manifest of its own.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dreamstyler_jax import images
from dreamstyler_jax.errors import UserError
from dreamstyler_jax.files import write_atomic
from dreamstyler_jax.grid import Cell

MANIFEST, DEFINITION = "manifest.jsonl", "grid.yaml"
_PENDING = 64  # pictures that may wait for being written


class Gallery:
    """The pictures in one folder, as far as they are finished.

    Args:
      folder: is made where it does not exist.
      shard: (i, n), which of n processes this is.

    Attributes:
      lines: what the manifests say, by cell id; lines with an ``error`` are of cells that failed.

    Raises:
      UserError: a line of a manifest, other than a last one cut short, cannot be read.
    """

    def __init__(self, folder: Path, shard: tuple[int, int] = (0, 1)):
        self.folder, self._shard = folder, shard
        self.lines: dict[str, dict[str, Any]] = {}
        for path in self._manifests():
            self.lines |= _read_manifest(path)
        index, count = shard
        self._manifest = folder / (MANIFEST if count == 1 else f"manifest.{index}-of-{count}.jsonl")

    def _manifests(self) -> list[Path]:
        return [*sorted(self.folder.glob("manifest.*-of-*.jsonl")), *self.folder.glob(MANIFEST)]

    def check_definition(self, definition: Mapping[str, Any], merge: bool) -> None:
        """Writes down what is painted here, or compares it with what was.

        Args:
          definition: all that the pictures depend on, as YAML values.
          merge: whether it may differ from what was.

        Raises:
          UserError: it differs, and may not.
        """
        path = self.folder / DEFINITION
        known = list(yaml.safe_load_all(path.read_text(encoding="utf-8"))) if path.exists() else []
        if definition in known:
            return
        if known and not merge:
            changed = [key for key in definition if definition[key] != known[-1].get(key)]
            raise UserError(
                f"{self.folder} holds the pictures of another grid ({', '.join(changed)} differ): "
                "choose another --output, or add to it with --merge"
            )
        documents = [*known, dict(definition)]
        write_atomic(path, yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=120).encode())

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those without a whole picture: never painted, failed, or with a file that is not what was written."""
        return [cell for cell in cells if not self._is_whole(self.lines.get(cell.id, {}))]

    def _is_whole(self, line: Mapping[str, Any]) -> bool:
        if "file" not in line:
            return False
        try:
            content = (self.folder / line["file"]).read_bytes()
        except OSError:
            return False
        return "sha256" not in line or hashlib.sha256(content).hexdigest() == line["sha256"]

    def begin(self) -> None:
        """Makes the manifest fit to be continued: a line cut short would spoil the next."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._manifest.exists():
            _write_manifest(self._manifest, _read_manifest(self._manifest).values())

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
        line = {"id": cell.id, **result, **dataclasses.asdict(cell)}
        with self._manifest.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.lines[cell.id] = line

    def finish(self, cells: Sequence[Cell]) -> None:
        """Puts all lines into one manifest, those of ``cells`` in their order after those of other grids."""
        own = dict.fromkeys(cell.id for cell in cells)
        others = [line for id, line in self.lines.items() if id not in own]
        ordered = others + [self.lines[id] for id in own if id in self.lines]
        _write_manifest(self.folder / MANIFEST, ordered)
        for path in self._manifests():
            if path.name != MANIFEST:
                path.unlink()


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
        self._settle(0)
        self._pool.shutdown()

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


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The complete lines of a manifest by cell id, the last one of each counting."""
    try:
        lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        return {line["id"]: line for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, or choose another output") from error
