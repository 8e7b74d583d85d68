"""Placeholders in prompts: the positions that the vectors of a style take.

A placeholder is never a token of the vocabulary: its vectors replace those of the text encoder *by position* after
tokenisation. The text around it tokenises as any other tool would tokenise it, and the vocabulary stays as it is.
"""

import difflib
import itertools
import re
import textwrap
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class Placeholder:
    """A ``{name}`` in a prompt; the name is empty for ``{}``."""

    name: str

    def __str__(self) -> str:
        return f"{{{self.name}}}"


def parse_prompt(prompt: str) -> list[str | Placeholder]:
    """Cuts a prompt at its placeholders: ``"a {b} c"`` -> ``["a ", Placeholder("b"), " c"]``.

    ``{{`` and ``}}`` stand for literal braces. Empty pieces of text are left out.

    Raises:
        UserError: a single brace without its partner.
    """
    parts: list[str | Placeholder] = []
    text, end = "", 0
    for match in _BRACES.finditer(prompt):
        text += prompt[end : match.start()]
        end = match.end()
        if match[1] is not None:
            parts += [text, Placeholder(match[1].strip())]
            text = ""
        elif len(match[0]) == 2:
            text += match[0][0]
        else:
            raise UserError(f"lone {match[0]!r} in the prompt {_short(prompt)}: write it twice for a literal brace")
    parts.append(text + prompt[end:])
    return [part for part in parts if part]


def tokenize_with_placeholders(
    tokenizer: Tokenizer, prompt: str, vectors_per_name: Mapping[str, int], *, required: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenises a prompt and says which style's vectors go where.

    ``{}`` stands for the only style there is, ``{name}`` for one of several. Each takes as many consecutive positions
    as the style has vectors, and may occur more than once. The text around it tokenises as if the placeholder were a
    separate word.

    Args:
        tokenizer: the model's.
        prompt: text with placeholders; ``{{`` and ``}}`` are literal braces.
        vectors_per_name: vectors (per stage) of every available style, e.g. ``{"gogh": 1, "monet": 2}``.
        required: refuse a prompt without any placeholder, as training does.

    Returns:
        ``(ids, slots)``, both int32[max_length]. At an ordinary position the slot is -1. At a style's position it is a
        row of the styles' vectors concatenated in the order of `vectors_per_name`, and the id is
        ``tokenizer.filler_id``.

    Raises:
        UserError: an unknown name, ``{}`` with none or several styles, a lone brace, a placeholder missing where one is
            required, or one that reaches beyond the window (its vectors would be lost silently).

    Warns:
        UserWarning: text after the last placeholder does not fit and is cut off.
    """
    offsets = dict(zip(vectors_per_name, itertools.accumulate([0, *vectors_per_name.values()]), strict=False))
    room = tokenizer.max_length - 2
    ids: list[int] = []
    slots: list[int] = []
    reach = 0
    for part in parse_prompt(prompt):
        if isinstance(part, str):
            words = tokenizer.words(part)
            ids += words
            slots += [-1] * len(words)
        else:
            name = _style_name(part, vectors_per_name)
            count = vectors_per_name[name]
            ids += [tokenizer.filler_id] * count
            slots += range(offsets[name], offsets[name] + count)
            reach = len(ids)
    if required and not reach:
        raise UserError(f"the prompt {_short(prompt)} has no placeholder: write {{}} where the style goes")
    if reach > room:
        raise UserError(
            f"the style's place in the prompt {_short(prompt)} lies {reach - room} token(s) beyond the "
            f"{tokenizer.max_length}-token window: shorten the context description before it"
        )
    if len(ids) > room:
        cut = tokenizer.decode(ids[room:])
        warnings.warn(f"the prompt {_short(prompt)} is {len(ids) - room} token(s) too long; cut: {cut!r}", stacklevel=2)
    row = np.full(tokenizer.max_length, -1, np.int32)
    row[1 : 1 + len(slots[:room])] = slots[:room]
    return tokenizer.frame(ids), row


def _style_name(placeholder: Placeholder, known: Mapping[str, int]) -> str:
    """The name of the style that a placeholder stands for."""
    if placeholder.name in known:
        return placeholder.name
    if not known:
        raise UserError(f"the prompt has the placeholder {placeholder} but no style was given: give one, or drop it")
    if not placeholder.name and len(known) == 1:
        return next(iter(known))
    names = listing([f"{{{name}}}" for name in _nearest_first(placeholder.name, known)])
    if not placeholder.name:
        raise UserError(f"{{}} needs exactly one style and {len(known)} were given: write one of {names}")
    raise UserError(f"the prompt asks for the unknown style {placeholder}: write one of {names}")


def _nearest_first(name: str, known: Iterable[str]) -> list[str]:
    return sorted(known, key=lambda other: -difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio())


def _short(prompt: str) -> str:
    return repr(textwrap.shorten(prompt, 60, placeholder="..."))
