"""Syntax of other programs in prompts, which this project paints as text."""

import re
import warnings
from collections.abc import Iterable

from dreamstyler_jax.runtime.errors import listing

_FOREIGN = re.compile(
    r"""
    \bBREAK\b
    | \bAND\b
    | <(?:lora|lyco|hypernet|embedding):[^<>]*>
    | \bembedding:[\w.-]+
    | \[[^\[\]|:]*[|:][^\[\]]*\]     # [cat|dog], [cat:dog:0.5]
    | \b\d+(?:\.\d+)?::             # {3::cat|dog}
    | __\w[\w/-]*?__
    """,
    re.VERBOSE,
)


def foreign_syntax(prompts: Iterable[str]) -> list[str]:
    """What in prompts other programs take for more than text, without duplicates."""
    return list(dict.fromkeys(match[0] for prompt in prompts for match in _FOREIGN.finditer(prompt)))


def warn_of_foreign_syntax(prompts: Iterable[str]) -> None:
    """Warns of it, once for all prompts."""
    if found := foreign_syntax(prompts):
        warnings.warn(
            f"{listing(found)}: only other programs understand this in a prompt, here it is painted as text; "
            "docs/prompts.md says what prompts can hold",
            stacklevel=2,
        )
