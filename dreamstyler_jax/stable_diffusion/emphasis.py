"""Weights in prompts, as people write them: ``(word:1.2)``, ``(word)`` and ``[word]``.

The notation is that of AUTOMATIC1111's web UI, which diffusers' community pipeline ``lpw_stable_diffusion`` shares:
``(word)`` counts 1.1 times, ``[word]`` 1 / 1.1 times, and brackets in brackets multiply. ``\\(`` is a bracket that is
meant as one. A bracket without its partner is text as well.
"""

import dataclasses
import re
from typing import Self

import numpy as np

from dreamstyler_jax.runtime.errors import UserError

STEP = 1.1  # the weight of (word)
MAX_WEIGHT = 100.0
_BRACES = r"\{\{|\}\}|\{[^{}]*\}"  # what is in a placeholder is its name
_MARKS = re.compile(
    rf"""
    (?P<braces>{_BRACES})
    | \\(?P<escaped>[()\[\]\\])
    | (?P<opening>[(\[])
    | (?: : \s* (?P<weight>[+-]?(?:\d+\.?\d*|\.\d+)) \s* )? (?P<closing>\))
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
    pieces: list[list] = []  # text and weight
    open_at: dict[str, list[int]] = {"(": [], "[": []}
    end = 0

    def close(bracket: str, weight: float) -> None:
        start = open_at[bracket].pop()
        pieces[start][0] = ""
        for piece in pieces[start:]:
            piece[1] *= weight

    for match in _MARKS.finditer(prompt):
        pieces.append([prompt[end : match.start()], 1.0])
        end = match.end()
        if match["opening"]:
            open_at[match[0]].append(len(pieces))
        if match["closing"] and open_at["("]:
            close("(", float(match["weight"] or STEP))
        elif match["closing_square"] and open_at["["]:
            close("[", 1 / STEP)
        else:
            pieces.append([match["escaped"] or match[0], 1.0])
    pieces.append([prompt[end:], 1.0])
    return _joined(pieces)


def _joined(pieces: list[list]) -> list[tuple[str, float]]:
    joined: list[tuple[str, float]] = []
    for text, weight in pieces:
        if not text:
            continue
        if abs(weight) > MAX_WEIGHT:
            raise UserError(f"the weight {weight:g} of {text[:40]!r} is out of range: give from -100 to 100")
        if joined and joined[-1][1] == weight:
            joined[-1] = joined[-1][0] + text, weight
        else:
            joined.append((text, weight))
    return joined


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

    def __add__(self, other: Self) -> Self:
        return type(self)(self.text + other.text, self.weights + other.weights)

    def __getitem__(self, part: slice) -> Self:
        return type(self)(self.text[part], self.weights[part])

    def sub(self, pattern: re.Pattern[str] | str, replacement: str) -> Self:
        """As ``re.sub``; a replacement has the weight of the first character that it replaces."""
        result, end = self[:0], 0
        for match in re.finditer(pattern, self.text):
            result += self[end : match.start()]
            if replacement:
                result += self.of(replacement, self.weights[match.start()])
            end = match.end()
        return result + self[end:]

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
