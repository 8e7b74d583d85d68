"""Which LoRAs a model has, as a text: ``gogh.safetensors*0.8+ink.safetensors*0.5``, or ``none``.

Commands read these texts before they import JAX.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dreamstyler_jax.runtime.errors import UserError

NO_LORAS = "none"
MAX_SCALE = 10.0
_TERM = re.compile(
    r"\s*(?P<path>\S.*?\.safetensors)\s*(?:\*\s*(?P<scale>[+-]?(?:\d+\.?\d*|\.\d+))\s*)?(?:(?P<more>\+)|\Z)"
)


class LoraTerm(NamedTuple):
    """A LoRA's file and its scale: 1 is as its author meant it."""

    path: str
    scale: float


class LoraRecipe(NamedTuple):
    """LoRAs that are merged into a model together; none where ``terms`` is empty.

    ``str`` gives the text, equal for equal recipes.
    """

    terms: tuple[LoraTerm, ...] = ()

    def __str__(self) -> str:
        return _text([(term.path, term.scale) for term in self.terms])


def parse_loras(text: str) -> LoraRecipe:
    """Reads ``none``, or files with scales such as ``gogh.safetensors*0.8+ink.safetensors``; a scale left out is 1.

    Raises:
        UserError: the text has another form, names a file twice, or a scale is not from -10 to 10.
    """
    if text.strip() == NO_LORAS:
        return LoraRecipe()
    terms: list[LoraTerm] = []
    more, rest = True, text
    while more:
        match = _TERM.match(rest)
        if not match:
            raise UserError(
                f"loras: {text!r} should read like gogh.safetensors*0.8, gogh.safetensors*0.8+ink.safetensors*0.5 or "
                f"{NO_LORAS}; only safetensors files are read"
            )
        terms.append(LoraTerm(match["path"], float(match["scale"] or 1)))
        more, rest = match["more"], rest[match.end() :]
    if len({term.path for term in terms}) < len(terms):
        raise UserError(f"loras: {text!r} names a file twice; give it one scale")
    if any(abs(term.scale) > MAX_SCALE for term in terms):
        raise UserError(f"loras: a scale in {text!r} is not from {-MAX_SCALE:g} to {MAX_SCALE:g}")
    return LoraRecipe(tuple(terms))


def lora_labels(texts: Sequence[str]) -> list[str]:
    """Recipes with the names of the files in place of their paths, as far as that tells the recipes apart."""
    short = list(map(_label, texts))
    return short if len(set(short)) == len(set(texts)) else list(texts)


def _label(text: str) -> str:
    try:
        return _text([(Path(term.path).stem, term.scale) for term in parse_loras(text).terms])
    except UserError:  # from a manifest that another tool wrote
        return text


def _text(terms: Sequence[tuple[str, float]]) -> str:
    factors = [f"*{str(scale).removesuffix('.0')}" if scale != 1 else "" for _, scale in terms]
    return "+".join(name + factor for (name, _), factor in zip(terms, factors, strict=True)) or NO_LORAS
