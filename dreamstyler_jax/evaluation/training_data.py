"""What the styles of painted pictures were learned from: training pictures and prompts."""

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from dreamstyler_jax.evaluation.painted import PaintedPicture, PaintedStyle, has_subject, plain_context
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE, EXAMPLE_STYLE
from dreamstyler_jax.mixing import mix, parse_recipe
from dreamstyler_jax.provenance import TrainingPicture, texts, training_pictures
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.masks import fill
from dreamstyler_jax.runtime.settings import one_of
from dreamstyler_jax.style import FILE_NAME, Style, StyleRef, load_styles

RUNS = Path("runs")


class TrainingData(NamedTuple):
    """The pictures and prompts that one or several styles were learned from.

    Attributes:
        pictures: the training pictures.
        contexts: the training prompts without the style, without duplicates and without those that have no subject.
    """

    pictures: list[Image.Image]
    contexts: list[str]


def find_training_data(
    painted: Sequence[PaintedPicture], style_paths: Sequence[str], style_pictures: Sequence[str]
) -> dict[tuple[str, ...], TrainingData]:
    """Finds the training data of all styles that pictures are painted in.

    Args:
        style_paths: as in `known_styles`.
        style_pictures: training pictures as NAME=FILE, or FILE if there is one style; they replace those that the
            style itself names.

    Returns:
        The training data by `PaintedPicture.style_hashes`.

    Raises:
        UserError: a style is unknown, or its training picture is neither given nor where the style says.
    """
    known, may_differ = known_styles(style_paths), bool(style_paths)
    styles = dict.fromkeys(style for picture in painted for style in picture.styles)
    learned = {style.hash: _learned_styles(style, known, may_differ) for style in styles}
    names = list(dict.fromkeys(name for by_name in learned.values() for name in by_name))
    given = _parse_style_pictures(style_pictures, names)
    training_data = {}
    for hashes in dict.fromkeys(picture.style_hashes for picture in painted):
        parts = {name: style for hash in hashes for name, style in learned[hash].items()}
        training_data[hashes] = _join(_load(name, style, given.get(name, [])) for name, style in parts.items())
    return training_data


def known_styles(paths: Sequence[str]) -> list[Style]:
    """The styles in these files and folders; if none are given, those in ``runs/`` and the shipped example."""
    if paths:
        return list(load_styles(paths).values())
    # The shipped style names its picture by a path on the machine where it was trained.
    shipped = Style.load(EXAMPLE_STYLE)
    shipped = dataclasses.replace(shipped, metadata={**shipped.metadata, "images": [str(EXAMPLE_PICTURE)]})
    return [*map(Style.load, sorted(RUNS.glob(f"*/{FILE_NAME}"))), shipped]


def _learned_styles(painted: PaintedStyle, known: Sequence[Style], may_differ: bool) -> dict[str, Style]:
    """The learned styles, by name, that a painted style consists of: itself, or the parts of a mix.

    A style whose hash is unknown must have the name of a known style, or be a mix of known styles, with the same hash
    unless ``may_differ``. A style at an earlier training step, such as "gogh@100", was learned from the same pictures
    as the final one.
    """
    for style in known:
        if style.hash == painted.hash:
            return {painted.name: style}
    found = _find_by_name(painted.name, known)
    if found is None or (found.style.hash != painted.hash and not may_differ):
        where = "among the styles given" if may_differ else f"in {RUNS}/"
        raise UserError(
            f"the style {painted.name!r} ({painted.hash}) is not {where}: give its file or its run with --styles"
        )
    if found.style.hash != painted.hash and not found.names_steps:
        warnings.warn(
            f"the style {painted.name!r} has changed since these pictures were painted, from {painted.hash} to "
            f"{found.style.hash}; the scores are against what it was learned from now",
            stacklevel=2,
        )
    return found.learned


class _Found(NamedTuple):
    """What the known styles make of a style's name.

    Attributes:
        style: the final style of this name, or the mix of final styles.
        learned: the learned styles in it by name.
        names_steps: whether the name asks for an earlier training step of one of them.
    """

    style: Style
    learned: dict[str, Style]
    names_steps: bool


def _find_by_name(name: str, known: Sequence[Style]) -> _Found | None:
    """The known style of this name, or the mix of known styles with this recipe; None if there is none."""
    by_name = {style.name: style for style in reversed(known)}  # the first of several with one name
    ref = StyleRef.parse(name)
    if ref.name in by_name:
        return _Found(by_name[ref.name], {ref.name: by_name[ref.name]}, names_steps=ref.names_step)
    try:
        recipe = parse_recipe(ref.name)
        parts = {str(part): by_name[part.name] for part in recipe.refs if part.name in by_name}
        mixed = mix(recipe, parts)
    except UserError:
        return None
    learned = {part.name: by_name[part.name] for part in recipe.refs}
    return _Found(mixed, learned, names_steps=ref.names_step)


def _parse_style_pictures(options: Iterable[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Files by the name of their style, from NAME=FILE or FILE; the path of an existing file is never split."""
    files: dict[str, list[str]] = {}
    for option in options:
        name, equals, file = option.partition("=")
        if not equals or path_of(option).exists():
            name, file = names[0], option
            if len(names) > 1:
                raise UserError(f"style_pictures: there are {len(names)} styles, so write {names[0]}={option}")
        if name not in names:
            raise UserError(f"style_pictures: {option}: the style must be {one_of(names, name)}")
        files.setdefault(name, []).append(file)
    return files


def _load(name: str, style: Style, given: Sequence[str]) -> TrainingData:
    """The training data of a learned style, with the given pictures if there are any."""
    try:
        found = map(TrainingPicture, given) if given else training_pictures(style.metadata)
        pictures = [fill(picture.load()) for picture in found]
    except UserError as error:
        raise UserError(
            f"{error}; the style {name!r} was learned from it: say where it is with --style_pictures {name}=FILE"
        ) from error
    if not pictures:
        raise UserError(f"the style {name!r} does not say what it was learned from: give --style_pictures {name}=FILE")
    prompts = texts(style.metadata.get("prompts"))
    return TrainingData(pictures, [plain_context(prompt) for prompt in prompts if has_subject(prompt)])


def _join(parts: Iterable[TrainingData]) -> TrainingData:
    parts = list(parts)
    contexts = dict.fromkeys(context for part in parts for context in part.contexts)
    return TrainingData([picture for part in parts for picture in part.pictures], list(contexts))
