"""The scores that ``dreamstyler evaluate`` left beside a page."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from dreamstyler_jax.runtime.documents import parse_json
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import read_file

FILE_NAME = "scores.jsonl"


class ScoredPicture(TypedDict):
    """A line of the file: a picture by its cell's id and the SHA-256 of its file, and its scores."""

    id: str
    sha256: str
    scores: dict[str, float | None]  # None for a score that has no meaning for this picture


def put_scores(folder: Path, cells: Iterable[dict[str, Any]]) -> None:
    """Gives each cell the scores of its picture, as ``scores``, and takes away those of another picture.

    A score counts only as long as the picture is the one that was scored, which its hash tells. A file of scores that
    cannot be read is ignored with a warning: `evaluate` makes it again.

    Args:
        folder: the page's folder.
        cells: what the page knows of its pictures, of which ``id`` and ``digest`` are read.
    """
    known = _read(folder)
    for cell in cells:
        scores = known.get((cell["id"], cell.get("digest", "")), {})
        cell.pop("scores", None)
        if scores:
            cell["scores"] = scores


def _read(folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """The scores by a cell's id and its picture's hash."""
    path = folder / FILE_NAME
    if not path.exists():
        return {}
    try:
        texts = read_file(path).splitlines()
        lines = [
            parse_json(text, ScoredPicture, f"line {number} of {path}") for number, text in enumerate(texts, 1) if text
        ]
    except UserError as error:
        warnings.warn(f"the page shows no scores: {error}; dreamstyler evaluate writes them again", stacklevel=2)
        return {}
    return {(line["id"], line["sha256"]): _meaningful(line["scores"]) for line in lines}


def _meaningful(scores: dict[str, float | None]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in scores.items() if value is not None}
