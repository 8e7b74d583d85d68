"""Settings of a command: a frozen dataclass whose fields say what they mean and which values they take.

    @dataclasses.dataclass(frozen=True)
    class PaintConfig:
        steps: int = option(25, "Solver steps.", low=1, high=1000)
        solver: str = option("ddim", "The solver.", choices=("ddim", "euler"))

        def __post_init__(self):
            check_values(self)

A field is a str, int, float, bool, a list of one of these, or one of these or None.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from dreamstyler_jax.runtime.errors import UserError


def option(
    default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: Iterable[str] = ()
) -> Any:
    """A field of a settings dataclass.

    Args:
        default: its value where none is given; a list is copied for each instance.
        help: one or two sentences for ``--help``.
        low, high: the smallest and the largest number allowed, of each item where the field is a list.
        choices: the words allowed.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": tuple(choices)}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_values(config: Any) -> None:
    """Checks every field of a settings dataclass against its range and its choices.

    Raises:
        UserError: a number is out of its range, a word is not among the choices, or a list of numbers or of choices
            is empty where its default is not, or has a value twice.
    """
    for field in dataclasses.fields(config):
        value, rules = getattr(config, field.name), field.metadata
        limited = bool(rules.get("choices")) or rules.get("low") is not None
        if isinstance(value, list) and limited:
            needs_one = field.default_factory is not dataclasses.MISSING and bool(field.default_factory())
            if len(set(value)) < len(value) or (not value and needs_one):
                raise UserError(f"{field.name}: give at least one value, and none twice")
        for item in value if isinstance(value, list) else [value]:
            _check_item(field.name, item, rules)


def _check_item(name: str, item: Any, rules: Any) -> None:
    if item is None:
        return
    choices, low, high = rules.get("choices", ()), rules.get("low"), rules.get("high")
    if choices and item not in choices:
        raise UserError(f"{name}: must be {one_of(choices, str(item))}, not {item!r}")
    if low is not None and not low <= item <= high:
        raise UserError(f"{name}: must be from {low:.15g} to {high:.15g}, not {item}")


def one_of(words: Iterable[str], given: str) -> str:
    """Lists ``words`` and, where one of them looks like ``given``, asks whether that was meant."""
    words = list(words)
    near = difflib.get_close_matches(given, words, n=1)
    return f"one of {', '.join(words)}" + (f" (did you mean {near[0]}?)" if near else "")
