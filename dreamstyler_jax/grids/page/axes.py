"""The parameters of a grid's pictures as axes, and which axes the page shows as rows and columns at first."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dreamstyler_jax.grids.page.thumbnails import NOT_YET
from dreamstyler_jax.stable_diffusion.loras.recipes import lora_labels

_NOT_PARAMETERS = ("id", "file", "sha256", "error", "command", "learned_from", "learned_from_hashes")
_OUTERMOST_FIRST = ("content", "prompt", "style", "styles", "checkpoint", "loras", "seed")
_NESTED = dict  # what stands for lists and objects in the keys of values
_MAX_EXACT = 2**53  # JavaScript rounds larger whole numbers


@dataclasses.dataclass(frozen=True)
class Axis:
    """A parameter of the pictures.

    Attributes:
        name: the parameter's name.
        values: its distinct values in the order of the manifest; None where a picture does not have it.
        labels: texts that stand for the values if some of them are objects or lists, or paths of LoRAs; empty
            otherwise.
        indices: for each picture the index of its value in ``values``.
    """

    name: str
    values: list[Any]
    labels: list[str]
    indices: list[int]


def find_axes(lines: Sequence[Mapping[str, Any]], errors: Sequence[str | None]) -> list[Axis]:
    """Finds the parameters of the pictures, including those that all pictures share.

    A field with a text, a number or a boolean is an axis. So is each entry of an object of numbers. Any other object or
    list is one axis as a whole.

    Args:
        lines: lines of a manifest, one per picture.
        errors: what is wrong with each picture, or None. If anything is, "state" is an axis as well; as long as
            pictures are still to be painted it has all three states, so that no axis changes in the meantime.
    """
    columns: list[tuple[str, list[Any]]] = []
    fields = [field for field in dict.fromkeys(key for line in lines for key in line) if field not in _NOT_PARAMETERS]
    for field in fields:
        column = [_as_javascript_value(line.get(field)) for line in lines]
        if field == "prompt":
            column = [_without_style_name(text, line) for text, line in zip(column, lines, strict=True)]
        if all(value is None or _is_object_of_numbers(value) for value in column) and any(column):
            taken = {*fields, *(name for name, _ in columns)}
            for key in dict.fromkeys(key for value in column for key in value or ()):
                name = f"{field}.{key}" if key in taken else key
                columns.append((name, [(value or {}).get(key) for value in column]))
        else:
            columns.append((field, column))
    axes = [_axis(name, column) for name, column in columns]
    if NOT_YET in errors:
        states = ["painted", "failed", NOT_YET]
        axes.append(Axis("state", states, [], [states.index(_state(error)) for error in errors]))
    elif any(errors):
        axes.append(_axis("state", list(map(_state, errors))))
    return axes


def _state(error: str | None) -> str:
    return "painted" if error is None else NOT_YET if error == NOT_YET else "failed"


def _as_javascript_value(value: Any) -> Any:
    """Turns 1.0 into 1, as JavaScript does; what it would round, NaN and infinity become texts."""
    if isinstance(value, Mapping):
        return {str(key): _as_javascript_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_javascript_value(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() and abs(value) <= _MAX_EXACT else value
    return str(value) if isinstance(value, int) and abs(value) > _MAX_EXACT else value


def _without_style_name(prompt: Any, line: Mapping[str, Any]) -> Any:
    """Writes ``{}`` for the only style of a line, so that one prompt in two styles is one value."""
    styles = line.get("styles")
    if not isinstance(prompt, str) or not isinstance(styles, Mapping) or len(styles) != 1:
        return prompt
    return prompt.replace(f"{{{next(iter(styles))}}}", "{}")


def _is_object_of_numbers(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(item, int | float) and not isinstance(item, bool) for item in value.values()
    )


def _axis(name: str, column: Sequence[Any]) -> Axis:
    index: dict[Any, int] = {}
    indices = [index.setdefault(_key(value), len(index)) for value in column]
    values = [json.loads(text) if kind is _NESTED else text for kind, text in index]
    if name == "loras" and all(isinstance(value, str) for value in values):
        return Axis(name, values, lora_labels(values), indices)
    nested = any(isinstance(value, list | dict) for value in values)
    return Axis(name, values, _labels(values) if nested else [], indices)


def _key(value: Any) -> tuple[type, Any]:
    """Equal for equal values of JSON, and not for 1 and true. Nearly all values are no lists or objects."""
    return (
        (_NESTED, json.dumps(value, sort_keys=True)) if isinstance(value, list | tuple | dict) else (type(value), value)
    )


def _labels(values: Sequence[Any]) -> list[str]:
    """Labels objects by their keys if that tells all values apart (styles with their hashes), else in full."""
    short = [", ".join(value) if isinstance(value, dict) else "" for value in values]
    if all(short) and len(set(short)) == len(short):
        return short
    return ["" if value is None else _label(value) for value in values]


def _label(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_label(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_label(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def default_places(axes: Sequence[Axis]) -> tuple[list[int], list[int]]:
    """Chooses which axes are rows and which are columns at first.

    Prompts are the rows, or the next axis in order if there is only one prompt. The other axes that tell pictures apart
    are the columns. An axis that the axes before it determine has no place: a hash, given the name, or the time that a
    picture took, given everything else. With a single axis there are no rows, and the pictures flow.

    Returns:
        The rows and the columns as indices of ``axes``, the outermost axis first.
    """

    def rank(i: int) -> tuple[bool, int]:
        axis = axes[i]
        known = axis.name in _OUTERMOST_FIRST
        measured = not known and 2 * len(axis.values) > len(axis.indices) > 4  # such as seconds: nearly all differ
        return measured, _OUTERMOST_FIRST.index(axis.name) if known else len(_OUTERMOST_FIRST)

    placed: list[int] = []
    groups = [0] * max((len(axis.indices) for axis in axes), default=0)  # of pictures that ``placed`` cannot tell apart
    for i in sorted((i for i, axis in enumerate(axes) if len(axis.values) > 1), key=rank):
        pairs = list(zip(groups, axes[i].indices, strict=True))
        finer = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        if len(finer) > len(set(groups)):
            placed.append(i)
            groups = [finer[pair] for pair in pairs]
    return (placed[:1], placed[1:]) if len(placed) > 1 else ([], placed)
