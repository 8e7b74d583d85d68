"""From prompts, seeds and scales to pictures on disk: cells, their files, the manifest and the contact sheet."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dreamstyler_jax import __version__, images, prompts
from dreamstyler_jax.errors import UserError
from dreamstyler_jax.files import write_atomic
from dreamstyler_jax.pipeline import StableDiffusion
from dreamstyler_jax.sampling import Request
from dreamstyler_jax.style import Style


@dataclasses.dataclass(frozen=True)
class Cell:
    """One picture of a grid and everything that makes it."""

    prompt: str
    negative_prompt: str
    seed: int
    guidance: str
    scales: Mapping[str, float]
    solver: str
    steps: int
    height: int
    width: int
    dtype: str
    styles: Mapping[str, str]
    model: str
    model_hash: str

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits of all parameters: safe as a file name, whatever the prompt."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def text(self) -> dict[str, str]:
        """The parameters as text chunks of a PNG."""
        values = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in dataclasses.asdict(self).items()
        }
        return {**values, "software": f"dreamstyler_jax {__version__}"}


class Conditionings:
    """The distinct conditionings of a list of prompts, and the rows of guidance that each prompt needs of them."""

    def __init__(self, model: StableDiffusion, texts: Sequence[str], negative_prompt: str, styles: Mapping[str, Style]):
        self._rows = {
            text: (negative_prompt, text, prompts.context_only(text), prompts.style_only(text)) for text in texts
        }
        every = list(dict.fromkeys(row for rows in self._rows.values() for row in rows))
        self._index = {text: i for i, text in enumerate(every)}
        self.arrays = prompts.encode(model, every, styles)

    def request(self, text: str, weights: np.ndarray, seed: int) -> Request:
        """What to ask the sampler for."""
        null, full, context, style = (self._index[row] for row in self._rows[text])
        return Request((null, full, context, style), weights, seed)


def write_pictures(folder: Path, cells: Sequence[Cell], pictures: Iterable[np.ndarray]) -> Iterator[Image.Image]:
    """Saves pictures as they come, each with a line in ``manifest.jsonl`` once it is on disk, and passes them on.

    A line of an earlier picture of the same parameters is replaced; other lines stay.

    Raises:
      UserError: a line of the manifest, other than a last one cut short, cannot be read.
    """
    manifest = folder / "manifest.jsonl"
    lines = _read_manifest(manifest)
    if manifest.exists():
        _write_manifest(manifest, lines)  # a line cut short would spoil the next
    for cell, picture in zip(cells, pictures, strict=True):
        file = f"images/{cell.id}.png"
        image = images.to_image(picture)
        images.save_png(folder / file, image, cell.text())
        lines[cell.id] = {"id": cell.id, "file": file, **dataclasses.asdict(cell)}
        with manifest.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(lines[cell.id]) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        yield image
    _write_manifest(manifest, lines)


def _write_manifest(path: Path, lines: Mapping[str, Mapping[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines.values()).encode())


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The complete lines of a manifest by cell id, the last one of each counting."""
    if not path.exists():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        return {line["id"]: line for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, or choose another output") from error


def sheet(
    cells: Sequence[Cell], pictures: Sequence[Image.Image], styles: Mapping[str, Style], title: str
) -> Image.Image:
    """A contact sheet: a row per prompt, a column per seed; first the picture that a single style was learned from."""
    at = {(cell.prompt, cell.seed): picture for cell, picture in zip(cells, pictures, strict=True)}
    texts, seeds = list(dict.fromkeys(cell.prompt for cell in cells)), dict.fromkeys(cell.seed for cell in cells)
    original = _training_picture(styles)
    lead, head = ([original], ["learned from"]) if original else ([], [])
    rows = [lead + [at.get((text, seed)) for seed in seeds] for text in texts]
    return images.contact_sheet(rows, texts, [*head, *(f"seed {seed}" for seed in seeds)], title=title)


def _training_picture(styles: Mapping[str, Style]) -> Image.Image | None:
    """The first picture of the only style, if it is still where it was and can be read."""
    if len(styles) != 1:
        return None
    paths = next(iter(styles.values())).metadata.get("images") or [""]
    try:
        picture = images.load(paths[0])
    except UserError:
        return None
    return images.fit(picture, min(picture.size), min(picture.size))
