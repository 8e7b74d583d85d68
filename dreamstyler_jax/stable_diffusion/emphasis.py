"""Weights in prompts, as people write them: ``(word:1.2)``, ``(word)`` and ``[word]``.

The notation is that of AUTOMATIC1111's web UI, which diffusers' community pipeline ``lpw_stable_diffusion`` shares:
``(word)`` counts 1.1 times, ``[word]`` 1 / 1.1 times, and brackets in brackets multiply. ``\\(`` is a bracket that is
meant as one. A bracket without its partner is text as well.
"""

import dataclasses
import itertools
import operator
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

import numpy as np

from dreamstyler_jax.runtime.errors import UserError, shortened

STEP = 1.1  # the weight of (word)
MAX_WEIGHT = 100.0
_BRACES = r"\{\{|\}\}|\{[^{}]*\}"  # what is in a placeholder is its name
_MARKS = re.compile(
    rf"""
    (?P<braces>{_BRACES})
    | \\(?P<escaped>[()\[\]\\])
    | (?P<opening>[(\[])
    | (?: : \s* (?P<weight>[+-]?(?:\d+(?:\.\d*)?|\.\d+)) \s* )? (?P<closing>\))
    | (?P<closing_square>\])
    """,
    re.VERBOSE,
)
_TO_ESCAPE = re.compile(rf"({_BRACES})|([()\[\]\\])")


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    """Cuts a prompt where its weight changes: ``"a (red:1.3) house"`` -> ``[("a ", 1), ("red", 1.3), (" house", 1)]``.

    Braces stay as they are. No piece is empty.

    Raises:
        UserError: a weight beyond `MAX_WEIGHT`.
    """
    pieces: list[str | _Bracket] = []
    waiting: dict[str, list[int]] = {"(": [], "[": []}  # for their partners, by their places among the pieces
    end = 0
    for match in _MARKS.finditer(prompt):
        pieces.append(prompt[end : match.start()])
        end = match.end()
        kind = "(" if match["closing"] else "[" if match["closing_square"] else ""
        if kind and waiting[kind]:
            weight = float(match["weight"] or STEP) if kind == "(" else 1 / STEP
            pieces[waiting[kind].pop()] = _Bracket(kind, weight)
            pieces.append(_Bracket(kind))
        else:
            if match["opening"]:
                waiting[match[0]].append(len(pieces))
            pieces.append(match["escaped"] or match[0])
    pieces.append(prompt[end:])
    by_weight = itertools.groupby(_weighted(pieces), operator.itemgetter(1))
    return [("".join(text for text, _ in run), weight) for weight, run in by_weight]


class _Bracket(NamedTuple):
    """A bracket that has a partner: an opening one has a weight, a closing one none."""

    kind: str
    weight: float | None = None


def _weighted(pieces: Iterable[str | _Bracket]) -> Iterator[tuple[str, float]]:
    """The texts among the pieces that are not empty, with their weights."""
    weights = {"(": [1.0], "[": [1.0]}
    for piece in pieces:
        if isinstance(piece, _Bracket):
            of_kind = weights[piece.kind]
            if piece.weight is None:
                of_kind.pop()
            else:
                of_kind.append(of_kind[-1] * piece.weight)
        elif piece:
            weight = weights["("][-1] * weights["["][-1]
            if not abs(weight) <= MAX_WEIGHT:  # nor is it NaN
                raise UserError(f"the weight {weight:g} of {shortened(piece, 40)!r} is out of range: give -100 to 100")
            yield piece, weight


def has_weights(prompt: str) -> bool:
    """Whether a prompt reads otherwise with weights than without, also if it only escapes brackets."""
    return parse_weights(prompt) != ([(prompt, 1.0)] if prompt else [])


def without_weights(prompt: str) -> str:
    """The words of a prompt with weights: ``"a (red:1.3) house"`` -> ``"a red house"``."""
    return "".join(text for text, _ in parse_weights(prompt))


def escaped(text: str) -> str:
    """A text as a prompt with weights has it: brackets and backslashes outside of placeholders are text."""
    return _TO_ESCAPE.sub(lambda match: match[1] or rf"\{match[2]}", text)


@dataclasses.dataclass(frozen=True)
class WeightedText:
    """A text whose characters have weights, so that they keep them while the text is edited.

    Attributes:
        text: the characters.
        weights: as many numbers.
    """

    text: str
    weights: tuple[float, ...]

    @classmethod
    def of(cls, text: str, weight: float = 1.0) -> Self:
        """A text of one weight."""
        return cls(text, (weight,) * len(text))

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """The texts one after the other."""
        parts = list(parts)
        weights = itertools.chain.from_iterable(part.weights for part in parts)
        return cls("".join(part.text for part in parts), tuple(weights))

    def __getitem__(self, part: slice) -> Self:
        return type(self)(self.text[part], self.weights[part])

    def sub(self, pattern: re.Pattern[str] | str, replacement: str) -> Self:
        """As ``re.sub``; a replacement has the weight of the first character that it replaces."""
        parts, end = [], 0
        for match in re.finditer(pattern, self.text):
            parts.append(self[end : match.start()])
            if replacement:
                parts.append(self.of(replacement, self.weights[match.start()]))
            end = match.end()
        return self.joined([*parts, self[end:]])

    def strip(self, characters: str) -> Self:
        """As ``str.strip``."""
        left = len(self.text) - len(self.text.lstrip(characters))
        return self[left:][: len(self.text.strip(characters))]

    def __str__(self) -> str:
        """The prompt that `parse_weights` reads so."""
        prompt, start = "", 0
        for end in range(1, len(self.text) + 1):
            if end == len(self.text) or self.weights[end] != self.weights[start]:
                text, weight = escaped(self.text[start:end]), self.weights[start]
                prompt += text if weight == 1 else f"({text}:{np.format_float_positional(weight, trim='-')})"
                start = end
        return prompt
