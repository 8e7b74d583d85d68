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
from typing import NamedTuple

import numpy as np

from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.stable_diffusion.emphasis import parse_weights
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


class Reading(NamedTuple):
    """How prompts are read.

    Attributes:
        weighted: whether ``(word:1.2)``, ``(word)`` and ``[word]`` weigh words, see `emphasis`.
        windows: how many windows of the tokenizer a prompt fills, one after the other. What does not fit is cut off.
    """

    weighted: bool = False
    windows: int = 1


PLAIN = Reading()


class PromptTokens(NamedTuple):
    """A tokenised prompt; L is the tokenizer's window times the number of windows.

    Attributes:
        ids: int32[L]; at a style's position ``tokenizer.filler_id``.
        slots: int32[L], -1 at an ordinary position. At a style's position it is a row of the styles' vectors
            concatenated in their order.
        weights: float32[L], 1 at BOS, EOS and padding.
    """

    ids: np.ndarray
    slots: np.ndarray
    weights: np.ndarray


class _Token(NamedTuple):
    id: int
    slot: int
    weight: float


def tokenize_with_placeholders(
    tokenizer: Tokenizer,
    prompt: str,
    vectors_per_name: Mapping[str, int],
    *,
    required: bool = False,
    reading: Reading = PLAIN,
) -> PromptTokens:
    """Tokenises a prompt and says which style's vectors go where.

    ``{}`` stands for the only style there is, ``{name}`` for one of several. Each takes as many consecutive positions
    as the style has vectors, and may occur more than once. The text around it tokenises as if the placeholder were a
    separate word.

    Args:
        tokenizer: the model's.
        prompt: text with placeholders; ``{{`` and ``}}`` are literal braces.
        vectors_per_name: vectors (per stage) of every available style, e.g. ``{"gogh": 1, "monet": 2}``.
        required: refuse a prompt without any placeholder, as training does.
        reading: weights and windows.

    Raises:
        UserError: an unknown name, ``{}`` with none or several styles, a lone brace, a placeholder missing where one is
            required, or one that reaches beyond the window (its vectors would be lost silently).

    Warns:
        UserWarning: text after the last placeholder does not fit and is cut off.
    """
    units = _units(tokenizer, prompt, vectors_per_name, reading.weighted)
    tokens = [token for unit in units for token in unit]
    reach = max((place for place, token in enumerate(tokens, 1) if token.slot >= 0), default=0)
    if required and not reach:
        raise UserError(f"the prompt {_short(prompt)} has no placeholder: write {{}} where the style goes")
    room = tokenizer.max_length - 2
    windows = _filled(units, room)
    windows += [[]] * (reading.windows - len(windows))
    kept, lost = windows[: reading.windows], [token for window in windows[reading.windows :] for token in window]
    if any(token.slot >= 0 for token in lost) or any(len(window) > room for window in kept):
        raise UserError(
            f"the style's place in the prompt {_short(prompt)} lies {max(1, reach - room * reading.windows)} token(s) "
            f"beyond the {tokenizer.max_length}-token window: shorten the context description before it"
        )
    if lost:
        cut = tokenizer.decode(token.id for token in lost)
        warnings.warn(f"the prompt {_short(prompt)} is {len(lost)} token(s) too long; cut: {cut!r}", stacklevel=2)
    ids = [tokenizer.frame([token.id for token in window]) for window in kept]
    slots, weights = np.full((len(kept), room + 2), -1, np.int32), np.ones((len(kept), room + 2), np.float32)
    for row, window in enumerate(kept):
        slots[row, 1 : 1 + len(window)] = [token.slot for token in window]
        weights[row, 1 : 1 + len(window)] = [token.weight for token in window]
    return PromptTokens(np.concatenate(ids), slots.reshape(-1), weights.reshape(-1))


def count_windows(
    tokenizer: Tokenizer, prompt: str, vectors_per_name: Mapping[str, int], *, weighted: bool = False
) -> int:
    """How many windows of the tokenizer hold all of a prompt.

    Raises:
        UserError: an unknown name, ``{}`` with none or several styles, or a lone brace.
    """
    return len(_filled(_units(tokenizer, prompt, vectors_per_name, weighted), tokenizer.max_length - 2))


def _units(
    tokenizer: Tokenizer, prompt: str, vectors_per_name: Mapping[str, int], weighted: bool
) -> list[list[_Token]]:
    """What stays together in a window: a token of the text, or all vectors of a style."""
    offsets = dict(zip(vectors_per_name, itertools.accumulate([0, *vectors_per_name.values()]), strict=False))
    units: list[list[_Token]] = []
    for text, weight in parse_weights(prompt) if weighted else [(prompt, 1.0)]:
        for part in parse_prompt(text):
            if isinstance(part, str):
                units += [[_Token(word, -1, weight)] for word in tokenizer.words(part)]
            else:
                name = _style_name(part, vectors_per_name)
                slots = range(offsets[name], offsets[name] + vectors_per_name[name])
                units.append([_Token(tokenizer.filler_id, slot, weight) for slot in slots])
    return units


def _filled(units: Iterable[list[_Token]], room: int) -> list[list[_Token]]:
    """The units in as many windows of ``room`` tokens as they need; a unit that no window holds is in the last one."""
    windows: list[list[_Token]] = [[]]
    for unit in units:
        if len(windows[-1]) + len(unit) > room:
            windows.append([])
        windows[-1] += unit
    return windows


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
