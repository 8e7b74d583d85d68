"""Names of pictures' files, made from a pattern such as ``{index:04}-{prompt}``: safe everywhere, and each one once."""

import collections
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dreamstyler_jax.guidance import SCALES
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.settings import one_of

if TYPE_CHECKING:
    from dreamstyler_jax.grids.cells import Cell

BY_ID = "{id}"
FIELDS = (
    "index", "id", "prompt", "style", "seed", "checkpoint", "loras", "solver", "steps", "content", "strength",
    "control_scale", *SCALES,
)  # fmt: skip
_MAX_FIELD, _MAX_NAME = 80, 180  # characters of a value, bytes of a name; file systems allow 255
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\s]+')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # devices on Windows


def check_pattern(pattern: str) -> None:
    """Checks a pattern of names.

    Raises:
        UserError: a lone brace, an unknown field, or a width that is not one of two digits.
    """
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise UserError(f"name_format: {error} in {pattern!r}") from error
    if "/" in pattern or "\\" in pattern:
        raise UserError(f"name_format: {pattern!r} names a folder; give the name of a file alone, such as {BY_ID}")
    for _, field, width, conversion in parts:
        if field is not None and field not in FIELDS:
            raise UserError(f"name_format: unknown field {{{field}}}; it must be {one_of(FIELDS, field)}")
        if conversion or not re.fullmatch(r"(0?[1-9]\d?)?", width or ""):
            raise UserError(f"name_format: only a width can follow a field, as in {{index:04}}, not in {pattern!r}")
    if not any(field for _, field, _, _ in parts):
        raise UserError(f"name_format: {pattern!r} has no field; give one, such as {BY_ID}")


def name_files(cells: "Sequence[Cell]", pattern: str, kept: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """The name of each cell's file without a suffix, by the cell's id. No two differ by upper and lower case alone.

    The names depend on the whole grid, so all processes that share it choose the same ones.

    Args:
        cells: all cells of a grid.
        pattern: see `check_pattern`. A name that several cells would have, or another file has, gets the cell's id.
        kept: the names of the files that are there, without suffixes, by their cells' ids.
    """
    if pattern == BY_ID:
        return {cell.id: cell.id for cell in cells}
    wanted = {cell.id: _name(cell, index, pattern) for index, cell in enumerate(cells)}
    others = (name for id, name in kept.items() if wanted.get(id) != name)
    times = collections.Counter(name.casefold() for name in (*wanted.values(), *others))
    return {id: name if times[name.casefold()] == 1 else f"{name}-{id}" for id, name in wanted.items()}


def _name(cell: "Cell", index: int, pattern: str) -> str:
    known = {**cell.parameters(), **cell.scales, "index": index, "id": cell.id}
    values = {field: _value(field, known.get(field)) for field in FIELDS}
    name = re.sub(r"_{2,}", "_", _UNSAFE.sub("_", pattern.format(**values)))
    name = name.encode("utf-8", "ignore")[:_MAX_NAME].decode("utf-8", "ignore").strip(" ._")
    return f"_{name}" if not name or _RESERVED.match(name) else name


def _value(field: str, value: Any) -> Any:
    """A value as part of a name; nothing for a parameter that the cell does not have."""
    if field == "content" and value:
        value = re.split(r"[/\\]", value)[-1]
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)[:_MAX_FIELD].strip()
    return "" if value is None else f"{value:g}" if isinstance(value, float) else value
