"""Settings of a command: a frozen dataclass whose fields say what they mean and which values they take.

    @dataclasses.dataclass(frozen=True)
    class PaintConfig:
        steps: int = option(25, "Solver steps.", low=1, high=1000)
        solver: str = option("ddim", "The solver.", choices=("ddim", "euler"))

        def __post_init__(self):
            check_values(self)

A field holds a str, int, float or bool, a list of one of these, or one of these or None.
"""

import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dreamstyler_jax.runtime.errors import UserError

NULL = "null"  # the text for None
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_MAX_PIXELS = 65_536


class Kind(NamedTuple):
    """Which values a field holds: ``item``s, a list of them if ``is_list``, or None if ``optional``."""

    item: type
    is_list: bool = False
    optional: bool = False


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Iterable[str] = (),
    words: Mapping[str, Any] = types.MappingProxyType({}),
    positional: bool = False,
) -> Any:
    """A field of a settings dataclass.

    Args:
        default: the value if none is given. Each instance gets a copy of a list.
        help: one or two sentences for ``--help``.
        low, high: the smallest and the largest number allowed, for each item if the field is a list. Give both or none.
        choices: the words allowed.
        words: texts that stand for special values of the field, as ``auto`` may stand for 0.
        positional: whether the field also takes the words of a command line that belong to no option: a list all of
            them, a text the first.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": tuple(choices), "words": dict(words)}
    metadata["positional"] = positional
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_pair(config: Any, name: str, meaning: str, low: int) -> None:
    """Checks an option that is a list of two whole numbers, or empty.

    Args:
        config: the settings.
        name: the option.
        meaning: what the numbers are, for errors.
        low: the smallest number allowed.

    Raises:
        UserError: it is none of these.
    """
    values = getattr(config, name)
    if values and (len(values) != 2 or not all(low <= value <= _MAX_PIXELS for value in values)):
        given = " ".join(map(str, values))
        raise UserError(f"{name}: give {meaning}, two numbers from {low} to {_MAX_PIXELS}, not {given}")


def options_of(config_class: type) -> list[dataclasses.Field]:
    """The fields of a settings dataclass: those that the class itself declares, then those of its base classes."""
    declared = inspect.get_annotations(config_class)
    return sorted(dataclasses.fields(config_class), key=lambda field: field.name not in declared)


def default_of(field: dataclasses.Field) -> Any:
    """The default of a field, None if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def kind_of(field: dataclasses.Field) -> Kind:
    """Which values a field holds, by its annotation."""
    annotation: Any = field.type
    if typing.get_origin(annotation) is list:
        return Kind(typing.get_args(annotation)[0], is_list=True)
    if isinstance(annotation, types.UnionType):
        (item,) = set(typing.get_args(annotation)) - {types.NoneType}
        return Kind(item, optional=True)
    return Kind(annotation)


def check_values(config: Any) -> None:
    """Checks every field of a settings dataclass against its range and its choices.

    A single value in place of a list becomes a list of one, and a word of `option` the value that it stands for.

    Raises:
        UserError: a number is out of its range, a word is not among the choices, or a list of numbers or choices has
            duplicates, or is empty although its default is not.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if kind_of(field).is_list:
            if not isinstance(value, list):
                value = list(value) if isinstance(value, tuple) else [value]
                object.__setattr__(config, field.name, value)
            _check_list(field, value)
        elif isinstance(value, str) and value in field.metadata.get("words", {}):
            value = field.metadata["words"][value]
            object.__setattr__(config, field.name, value)
        for item in value if isinstance(value, list) else [value]:
            _check_item(field.name, item, field.metadata)


def convert(field: dataclasses.Field, given: str | Sequence[str]) -> Any:
    """The value of a field from its text, which a command line or a YAML file gives.

    Args:
        field: the field.
        given: a text, or several. A single text in place of a list becomes a list of one.

    Raises:
        UserError: a text does not read as the field's type, or there are several where the field takes one.
    """
    kind = kind_of(field)
    if kind.is_list:
        return [_convert_item(field, kind, text) for text in ([given] if isinstance(given, str) else given)]
    if not isinstance(given, str):
        raise UserError(f"{field.name}: must be {_in_words(kind)}, not a list")
    return _convert_item(field, kind, given)


def as_given(field: dataclasses.Field, value: Any) -> Any:
    """A value as a user gives it: a word of `option` where one stands for it."""
    return next((word for word, special in field.metadata.get("words", {}).items() if special == value), value)


def one_of(words: Iterable[str], given: str) -> str:
    """Lists ``words`` and, if one of them looks like ``given``, asks whether that was meant."""
    words = list(words)
    near = difflib.get_close_matches(given, words, n=1)
    return f"one of {', '.join(words)}" + (f" (did you mean {near[0]}?)" if near else "")


def hint(word: str, known: Iterable[str], prefix: str = "") -> str:
    """``"; did you mean ...?"`` with the known word that looks most like ``word``, empty if none does."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _check_list(field: dataclasses.Field, values: list) -> None:
    if not field.metadata.get("choices") and field.metadata.get("low") is None:
        return
    if len(set(values)) < len(values) or (not values and default_of(field)):
        raise UserError(f"{field.name}: give at least one value, without duplicates")


def _check_item(name: str, item: Any, rules: Mapping[str, Any]) -> None:
    if item is None:
        return
    if isinstance(item, str) and "\0" in item:
        raise UserError(f"{name}: holds a NUL character, which no path and no prompt can have")
    choices, low, high = rules.get("choices", ()), rules.get("low"), rules.get("high")
    if choices and item not in choices:
        raise UserError(f"{name}: must be {one_of(choices, str(item))}, not {item!r}")
    if low is None or high is None or item in rules.get("words", {}).values():
        return
    if not isinstance(item, int | float):
        raise UserError(f"{name}: must be {' or '.join(['a number', *rules.get('words', {})])}, not {item!r}")
    if not low <= item <= high:
        raise UserError(f"{name}: must be from {low:.15g} to {high:.15g}, not {item}")


def _convert_item(field: dataclasses.Field, kind: Kind, text: str) -> Any:
    words = field.metadata.get("words", {})
    if text in words:
        return words[text]
    if kind.optional and text == NULL:
        return None
    read = _READERS[kind.item]
    try:
        value = read(text)
        if value in words.values():  # what a word stands for is nothing to write
            raise ValueError(text)
        return value
    except (ValueError, KeyError):
        wanted = " or ".join([_in_words(kind), *words])
        raise UserError(f"{field.name}: must be {wanted}, not {text!r}") from None


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _truth(text: str) -> bool:
    return BOOLEANS[text.lower()]


def _in_words(kind: Kind) -> str:
    return _WORDS[kind.item] + (f" or {NULL}" if kind.optional else "")


_READERS: dict[type, Callable[[str], Any]] = {str: str, int: int, float: _number, bool: _truth}
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
