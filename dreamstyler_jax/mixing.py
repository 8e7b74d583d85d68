"""New styles from several: other styles' vectors in some stages, and blends (Ahn et al. 2024, Fig. 12).

Stages near T - 1 set structure and layout, those near 0 detail and brushwork. A *recipe* says which style each takes:

    gogh:5-3,monet:2-0                     gogh's structure, monet's brushwork
    gogh*0.7+monet*0.3                     a blend in every stage
    gogh+monet:5-3,monet:2-0               half and half above, monet below

The paper's baseline, all styles' vectors in every stage, needs no recipe: "in the style of {gogh}, {monet}".
"""

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.style import Style

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_TERM = re.compile(rf"\s*(?P<name>[^*+:,]+?)\s*(?:\*\s*(?P<weight>{_NUMBER})\s*)?")
_STAGES = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


class Part(NamedTuple):
    """A blend and where it holds.

    ``weights``: by style name; they add up to 1. ``stages``: in the order of the recipe; None for all.
    """

    weights: dict[str, float]
    stages: tuple[int, ...] | None


def parse_recipe(recipe: str) -> list[Part]:
    """Reads ``"gogh*0.7+monet*0.3:5-3,monet:2-0"``.

    Raises:
      UserError: it does not read so, or weights do not add up to 1.
    """
    parts = []
    for text in recipe.split(","):
        blend, colon, stages = text.partition(":")
        terms = [_TERM.fullmatch(term) for term in blend.split("+")]
        span = _STAGES.fullmatch(stages) if colon else None
        if not all(terms) or (colon and not span):
            raise UserError(
                f"the mix {recipe!r} should read like gogh:5-3,monet:2-0 or gogh*0.7+monet*0.3, not {text!r}"
            )
        parts.append(Part(_weights(recipe, [term for term in terms if term]), _range(span)))
    if len(parts) > 1 and any(part.stages is None for part in parts):
        raise UserError(f"the mix {recipe!r} has several parts, and each of them must say its stages, as in gogh:5-3")
    return parts


def _weights(recipe: str, terms: list[re.Match[str]]) -> dict[str, float]:
    names = [term["name"] for term in terms]
    given = [term["weight"] for term in terms]
    if len(set(names)) < len(names):
        raise UserError(f"the mix {recipe!r} names a style twice in one blend")
    if all(weight is None for weight in given):
        return dict.fromkeys(names, 1 / len(names))
    weights = {name: float(weight or 0) for name, weight in zip(names, given, strict=True)}
    if None in given or abs(sum(weights.values()) - 1) > 1e-6:
        raise UserError(f"the mix {recipe!r}: give each style of a blend a weight such that they add up to 1, or none")
    return weights


def _range(span: re.Match[str] | None) -> tuple[int, ...] | None:
    if span is None:
        return None
    first, last = int(span[1]), int(span[2] or span[1])
    return tuple(range(first, last + 1) if first <= last else range(first, last - 1, -1))


def mix(recipe: str, styles: Mapping[str, Style]) -> Style:
    """The style that a recipe makes, called by the recipe itself.

    Args:
      recipe: see above; stages count from 0, the one with the least noise.
      styles: by name. Those mixed have one number of stages T, or a single stage, which then holds for all T; and one
        number of vectors.

    Returns:
      A style of T stages; its metadata hold the recipe and the hashes of what went into it. The name of a style is a
      recipe for the style itself.

    Raises:
      UserError: the recipe cannot be read, names a style that is not there, or leaves a stage out or gives it twice.
    """
    if recipe in styles:
        return styles[recipe]
    parts = parse_recipe(recipe)
    names = list(dict.fromkeys(name for part in parts for name in part.weights))
    if unknown := [name for name in names if name not in styles]:
        raise UserError(f"the mix {recipe!r} names {unknown[0]!r}; the styles at hand are {', '.join(styles)}")
    chosen = {name: styles[name] for name in names}
    stages = _common_stages(recipe, chosen)
    _check_cover(recipe, parts, stages)
    tables = {name: np.broadcast_to(s.table, (stages, *s.table.shape[1:])) for name, s in chosen.items()}
    table = np.empty((stages, *next(iter(tables.values())).shape[1:]), np.float32)
    for part in parts:
        where = list(range(stages) if part.stages is None else part.stages)
        table[where] = functools.reduce(np.add, (weight * tables[name][where] for name, weight in part.weights.items()))
    return Style(recipe, table, {"mix": recipe, "hashes": {name: style.hash for name, style in chosen.items()}})


def _common_stages(recipe: str, styles: Mapping[str, Style]) -> int:
    several = {name: style.stages for name, style in styles.items() if style.stages > 1}
    if len(set(several.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in several.items())
        raise UserError(f"the mix {recipe!r} needs styles of one number of stages: {counts}")
    shapes = {name: style.table.shape[1:] for name, style in styles.items()}
    if len(set(shapes.values())) > 1:
        counts = ", ".join(f"{name} has {v} of width {d}" for name, (v, d) in shapes.items())
        raise UserError(f"the mix {recipe!r} needs styles of one number of vectors: {counts}")
    return max(several.values(), default=1)


def _check_cover(recipe: str, parts: list[Part], stages: int) -> None:
    listed = [stage for part in parts for stage in (range(stages) if part.stages is None else part.stages)]
    for problem, wrong in (
        ("names a stage that is not there", [stage for stage in listed if stage >= stages]),
        ("gives a stage twice", [stage for stage in listed if listed.count(stage) > 1]),
        ("leaves a stage out", [stage for stage in range(stages) if stage not in listed]),
    ):
        if wrong:
            raise UserError(f"the mix {recipe!r} {problem}, {wrong[0]}: there are {stages}, 0 to {stages - 1}")
