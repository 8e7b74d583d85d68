"""New styles from several: other styles' vectors in some stages, and blends (Ahn et al. 2024, Fig. 12).

Stages near T - 1 set structure and layout, those near 0 detail and brushwork. A *recipe* says which style each takes:

    gogh:5-3,monet:2-0                     gogh's structure, monet's brushwork
    gogh*0.7+monet*0.3                     a blend in every stage
    gogh+monet:5-3,monet:2-0               half and half in the upper stages, monet in the lower ones

Styles of which only directions were learned (``norm: fixed``) blend along great circles (`directions.spherical_mean`),
others linearly.

The paper's baseline, the vectors of all styles in every stage, needs no recipe: "in the style of {gogh}, {monet}".
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from dreamstyler_jax.directions import spherical_mean
from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.style import Style, StyleRef

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_TERM = re.compile(rf"\s*(?P<name>[^*+:,]+?)\s*(?:\*\s*(?P<weight>{_NUMBER})\s*)?")
_STAGES = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


class Part(NamedTuple):
    """A blend and the stages it holds for.

    Attributes:
        weights: the weight of each style; they add up to 1.
        stages: in the order of the recipe; None for all stages.
    """

    weights: dict[StyleRef, float]
    stages: tuple[int, ...] | None


class Recipe(NamedTuple):
    """A recipe that has been read.

    Attributes:
        text: as it was written; it also is the name of the style that it makes.
        parts: its blends.
    """

    text: str
    parts: tuple[Part, ...]

    @property
    def refs(self) -> list[StyleRef]:
        """The styles in it, without duplicates."""
        return list(dict.fromkeys(ref for part in self.parts for ref in part.weights))


def parse_recipe(text: str) -> Recipe:
    """Reads ``"gogh*0.7+monet*0.3:5-3,monet:2-0"``.

    Raises:
        UserError: it does not have this form, or the weights of a blend do not add up to 1.
    """
    parts = []
    for piece in text.split(","):
        blend, colon, stages = piece.partition(":")
        terms = [_TERM.fullmatch(term) for term in blend.split("+")]
        span = _STAGES.fullmatch(stages) if colon else None
        if not all(terms) or (colon and not span):
            raise UserError(
                f"the mix {text!r} should read like gogh:5-3,monet:2-0 or gogh*0.7+monet*0.3, not {piece!r}"
            )
        parts.append(Part(_weights(text, [term for term in terms if term]), _stage_range(span)))
    if len(parts) > 1 and any(part.stages is None for part in parts):
        raise UserError(f"the mix {text!r} has several parts, and each of them must say its stages, as in gogh:5-3")
    return Recipe(text, tuple(parts))


def _weights(recipe: str, terms: list[re.Match[str]]) -> dict[StyleRef, float]:
    refs = [StyleRef.parse(term["name"]) for term in terms]
    given = [term["weight"] for term in terms]
    if len(set(refs)) < len(refs):
        raise UserError(f"the mix {recipe!r} names a style twice in one blend")
    if all(weight is None for weight in given):
        return dict.fromkeys(refs, 1 / len(refs))
    weights = {ref: float(weight or 0) for ref, weight in zip(refs, given, strict=True)}
    if None in given or abs(sum(weights.values()) - 1) > 1e-6:
        raise UserError(f"the mix {recipe!r}: give each style of a blend a weight such that they add up to 1, or none")
    return weights


def _stage_range(span: re.Match[str] | None) -> tuple[int, ...] | None:
    if span is None:
        return None
    first, last = int(span[1]), int(span[2] or span[1])
    return tuple(range(first, last + 1) if first <= last else range(first, last - 1, -1))


def mix(recipe: Recipe | str, styles: Mapping[str, Style]) -> Style:
    """Makes the style that a recipe describes; its name is the recipe's text.

    Args:
        recipe: see above, read or as text; stages count from 0, the one with the least noise. The name of a style is
            the recipe of the style itself.
        styles: by ``str(StyleRef)``. Those mixed have the same number of stages T, or a single stage, which then holds
            for all T; and the same number of vectors.

    Returns:
        A style of T stages; its metadata hold the recipe and the hashes of the styles that went into it.

    Raises:
        UserError: the recipe cannot be read, names a style that is not there, or leaves a stage out or gives it twice.
    """
    text = recipe if isinstance(recipe, str) else recipe.text
    if text in styles:
        return styles[text]
    recipe = parse_recipe(text) if isinstance(recipe, str) else recipe
    unknown = [str(ref) for ref in recipe.refs if str(ref) not in styles]
    if unknown:
        raise UserError(f"the mix {recipe.text!r} names {unknown[0]!r}; the styles given are {listing(list(styles))}")
    chosen = {ref: styles[str(ref)] for ref in recipe.refs}
    stages = _common_stages(recipe, chosen)
    _check_cover(recipe, stages)

    directional = all(style.metadata.get("norm") == "fixed" for style in chosen.values())

    def blend(*tables: np.ndarray) -> np.ndarray:
        """One text encoder's table, from that of each style in ``recipe.refs``."""
        whole = {
            ref: np.broadcast_to(table, (stages, *table.shape[1:]))
            for ref, table in zip(recipe.refs, tables, strict=True)
        }
        result = np.empty((stages, *tables[0].shape[1:]), np.float32)
        for part in recipe.parts:
            rows = list(range(stages) if part.stages is None else part.stages)
            vectors, weights = [whole[ref][rows] for ref in part.weights], list(part.weights.values())
            result[rows] = (spherical_mean if directional else _linear_mean)(vectors, weights)
        return result

    tables = jax.tree.map(blend, *(dict(style.tables) for style in chosen.values()))
    hashes = {str(ref): style.hash for ref, style in chosen.items()}
    norm = {"norm": "fixed"} if directional else {}
    return Style(recipe.text, tables, {"mix": recipe.text, "hashes": hashes} | norm)


def _linear_mean(vectors: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    first, *others = (weight * array for weight, array in zip(weights, vectors, strict=True))
    return sum(others, start=first)


def with_stages(style: Style, stages: int) -> dict[str, np.ndarray]:
    """The tables of a style for another number of stages: each stage has the mean of the style over its timesteps.

    A single stage thus becomes every stage, three become six by pairs of equals, and six become three by means of two.
    """
    fine = math.lcm(style.stages, stages)

    def convert(table: np.ndarray) -> np.ndarray:
        repeated = np.repeat(table, fine // style.stages, axis=0)
        return repeated.reshape(stages, fine // stages, *table.shape[1:]).mean(1)

    return {encoder: convert(table) for encoder, table in style.tables.items()}


def _common_stages(recipe: Recipe, styles: Mapping[StyleRef, Style]) -> int:
    several = {str(ref): style.stages for ref, style in styles.items() if style.stages > 1}
    if len(set(several.values())) > 1:
        counts = [f"{name} has {count}" for name, count in several.items()]
        raise UserError(f"the mix {recipe.text!r} needs styles of one number of stages: {listing(counts)}")
    first = next(iter(styles.values()))
    if any((style.vectors, style.widths) != (first.vectors, first.widths) for style in styles.values()):
        counts = [
            f"{ref} has {style.vectors} of width {'/'.join(map(str, style.widths.values()))}"
            for ref, style in styles.items()
        ]
        raise UserError(f"the mix {recipe.text!r} needs styles of one number of vectors: {listing(counts)}")
    return max(several.values(), default=1)


def _check_cover(recipe: Recipe, stages: int) -> None:
    listed = [stage for part in recipe.parts for stage in (range(stages) if part.stages is None else part.stages)]
    for problem, wrong in (
        ("names a stage that is not there", [stage for stage in listed if stage >= stages]),
        ("gives a stage twice", [stage for stage in listed if listed.count(stage) > 1]),
        ("leaves a stage out", [stage for stage in range(stages) if stage not in listed]),
    ):
        if wrong:
            raise UserError(f"the mix {recipe.text!r} {problem}, {wrong[0]}: there are {stages}, 0 to {stages - 1}")
