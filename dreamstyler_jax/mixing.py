"""New styles from several: other styles' vectors in some stages or layers, and blends (Ahn et al. 2024, Fig. 12).

Stages near T - 1 set structure and layout, those near 0 detail and brushwork. Likewise the cross-attention layers in
the middle of the denoiser, at low resolution, set shapes, and those at both ends colours and texture (P+, Voynov et al.
2023). A *recipe* says which style each takes:

    gogh:5-3,monet:2-0                     gogh's structure, monet's brushwork
    gogh*0.7+monet*0.3                     a blend in every stage
    gogh+monet:5-3,monet:2-0               half and half in the upper stages, monet in the lower ones
    gogh:layers 4-9,monet:layers 0-3,monet:layers 10-15
                                           gogh in the middle layers of Stable Diffusion 1.5, monet in the others
    gogh:5-3,gogh:2-0 layers 4-15,monet:2-0 layers 0-3
                                           monet in the first four layers of the lower stages, gogh everywhere else

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
from dreamstyler_jax.style import Style, StyleRef, with_layers

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_TERM = re.compile(rf"\s*(?P<name>[^*+:,]+?)\s*(?:\*\s*(?P<weight>{_NUMBER})\s*)?")
_RANGE = r"\d{1,3}\s*(?:-\s*\d{1,3})?"
_PLACES = re.compile(rf"\s*(?=\S)(?P<stages>{_RANGE})?\s*(?:layers?\s*(?P<layers>{_RANGE}))?\s*")


class Part(NamedTuple):
    """A blend and the stages and layers it holds for.

    Attributes:
        weights: the weight of each style; they add up to 1.
        stages, layers: in the order of the recipe; None for all of them.
    """

    weights: dict[StyleRef, float]
    stages: tuple[int, ...] | None
    layers: tuple[int, ...] | None = None

    def of(self, stages: int, layers: int) -> tuple[np.ndarray, ...]:
        """Where it holds in a table of so many stages and layers, as an index of both."""
        return np.ix_(
            range(stages) if self.stages is None else self.stages, range(layers) if self.layers is None else self.layers
        )


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
        blend, colon, where = piece.partition(":")
        terms = [_TERM.fullmatch(term) for term in blend.split("+")]
        places = _PLACES.fullmatch(where) if colon else None
        if not all(terms) or (colon and not places):
            raise UserError(
                f"the mix {text!r} should read like gogh:5-3,monet:2-0 or gogh*0.7+monet*0.3, not {piece!r}"
            )
        spans = (places["stages"], places["layers"]) if places else (None, None)
        parts.append(Part(_weights(text, [term for term in terms if term]), *map(_span, spans)))
    if len(parts) > 1 and any(part.stages is None and part.layers is None for part in parts):
        raise UserError(
            f"the mix {text!r} has several parts, and each of them must say its stages or layers, as in gogh:5-3 or "
            "gogh:layers 0-7"
        )
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


def _span(text: str | None) -> tuple[int, ...] | None:
    """The numbers of ``"5-3"`` or ``"5"``."""
    if text is None:
        return None
    first, _, last = text.partition("-")
    first, last = int(first), int(last or first)
    return tuple(range(first, last + 1) if first <= last else range(first, last - 1, -1))


def mix(recipe: Recipe | str, styles: Mapping[str, Style]) -> Style:
    """Makes the style that a recipe describes; its name is the recipe's text.

    Args:
        recipe: see above, read or as text; stages count from 0, the one with the least noise, and layers from 0, the
            first in the denoiser. The name of a style is the recipe of the style itself.
        styles: by ``str(StyleRef)``. Those mixed have the same number of stages T, or a single stage, which then holds
            for all T; the same number of layers K, or vectors that all layers share; and the same number of vectors.

    Returns:
        A style of T stages and K layers. If no style has layers of its own, K is as many as the recipe names. Its
        metadata hold the recipe and the hashes of the styles that went into it.

    Raises:
        UserError: the recipe cannot be read, names a style that is not there, or leaves a stage or layer out or gives
            it twice.
    """
    text = recipe if isinstance(recipe, str) else recipe.text
    if text in styles:
        return styles[text]
    recipe = parse_recipe(text) if isinstance(recipe, str) else recipe
    unknown = [str(ref) for ref in recipe.refs if str(ref) not in styles]
    if unknown:
        raise UserError(f"the mix {recipe.text!r} names {unknown[0]!r}; the styles given are {listing(list(styles))}")
    chosen = {ref: styles[str(ref)] for ref in recipe.refs}
    _check_vectors(recipe, chosen)
    stages = _common(recipe, "stages", {ref: style.stages for ref, style in chosen.items()})
    layers = _common(recipe, "layers", {ref: style.layers for ref, style in chosen.items()})
    if layers == 1:
        layers += max((layer for part in recipe.parts for layer in part.layers or ()), default=0)
    _check_cover(recipe, stages, layers)

    directional = all(style.metadata.get("norm") == "fixed" for style in chosen.values())

    def blend(*tables: np.ndarray) -> np.ndarray:
        """One text encoder's table, from that of each style in ``recipe.refs``."""
        shape = (stages, layers, *tables[0].shape[-2:])
        whole = {
            ref: np.broadcast_to(with_layers(table), shape) for ref, table in zip(recipe.refs, tables, strict=True)
        }
        result = np.empty(shape, np.float32)
        for part in recipe.parts:
            rows = part.of(stages, layers)
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


def _common(recipe: Recipe, kind: str, counts: Mapping[StyleRef, int]) -> int:
    """The number of stages or layers of the styles that have more than one."""
    several = {str(ref): count for ref, count in counts.items() if count > 1}
    if len(set(several.values())) > 1:
        parts = [f"{name} has {count}" for name, count in several.items()]
        raise UserError(f"the mix {recipe.text!r} needs styles of one number of {kind}: {listing(parts)}")
    return max(several.values(), default=1)


def _check_vectors(recipe: Recipe, styles: Mapping[StyleRef, Style]) -> None:
    first = next(iter(styles.values()))
    if any((style.vectors, style.widths) != (first.vectors, first.widths) for style in styles.values()):
        counts = [
            f"{ref} has {style.vectors} of width {'/'.join(map(str, style.widths.values()))}"
            for ref, style in styles.items()
        ]
        raise UserError(f"the mix {recipe.text!r} needs styles of one number of vectors: {listing(counts)}")


def _check_cover(recipe: Recipe, stages: int, layers: int) -> None:
    """Makes sure that the parts of a recipe give each layer of each stage once."""
    problem = f"the mix {recipe.text!r}"
    for kind, count in (("stage", stages), ("layer", layers)):
        named = [number for part in recipe.parts for number in getattr(part, f"{kind}s") or ()]
        if max(named, default=0) >= count:
            raise UserError(
                f"{problem} names a {kind} that is not there, {max(named)}: there are {count}, 0 to {count - 1}"
            )
    given = np.zeros((stages, layers), int)
    for part in recipe.parts:
        given[part.of(stages, layers)] += 1
    for what, wrong in (("gives {} twice", given > 1), ("leaves {} out", given == 0)):
        for stage, layer in np.argwhere(wrong)[:1]:
            of_stage = f"a layer of stage {stage}", layer, layers
            kind, number, count = of_stage if layers > 1 else ("a stage", stage, stages)
            raise UserError(f"{problem} {what.format(kind)}, {number}: there are {count}, 0 to {count - 1}")
