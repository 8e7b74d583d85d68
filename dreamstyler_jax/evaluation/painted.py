"""Painted pictures as the manifest of their folder lists them, and what their prompts say without the style."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dreamstyler_jax import prompts
from dreamstyler_jax.runtime.errors import UserError, shortened
from dreamstyler_jax.runtime.files import inside
from dreamstyler_jax.stable_diffusion.emphasis import without_weights
from dreamstyler_jax.stable_diffusion.placeholders import Placeholder, parse_prompt
from dreamstyler_jax.style import StyleRef


class PaintedStyle(NamedTuple):
    """A style that a picture is painted in.

    Attributes:
        name: a style or the recipe of a mix, with its training step if it is not the last, as in "gogh@100".
        hash: `Style.hash`.
    """

    name: str
    hash: str


class PaintedPicture(NamedTuple):
    """A picture to score.

    Attributes:
        path: its file.
        prompt: as it was given, {} included, but without weights.
        context: the prompt without the style, in plain words (see `plain_context`).
        styles: the styles that the prompt names.
        model: the model that painted it: "mini", a folder or a hub id.
        line: its whole line of the manifest.
    """

    path: Path
    prompt: str
    context: str
    styles: tuple[PaintedStyle, ...]
    model: str
    line: Mapping[str, Any]

    @property
    def style_hashes(self) -> tuple[str, ...]:
        """The key that groups pictures: the same styles have the same hashes even if they are renamed."""
        return tuple(style.hash for style in self.styles)


def painted_pictures(folder: Path, lines: Iterable[Mapping[str, Any]]) -> list[PaintedPicture]:
    """The pictures of a folder, without those that could not be painted.

    Args:
        lines: of the folder's manifest.

    Raises:
        UserError: there is no picture, or a prompt does not name its styles.
    """
    lines = [line for line in lines if "file" in line]
    if not lines:
        raise UserError(
            f"pictures: {folder} has no painted pictures; give folders that dreamstyler sample painted into"
        )
    pictures = []
    for line in lines:
        try:
            pictures.append(_painted_picture(folder, line))
        except UserError as error:
            raise UserError(f"{folder}, picture {line['id']}: {error}") from error
    if unsure := next((picture for picture in pictures if not prompts.calls_a_style(picture.prompt)), None):
        warnings.warn(
            f"the prompt {shortened(unsure.prompt)!r} does not call its style one; its text score is for "
            f"{shortened(unsure.context)!r}",
            stacklevel=2,
        )
    return pictures


def _painted_picture(folder: Path, line: Mapping[str, Any]) -> PaintedPicture:
    prompt, hashes = line["prompt"], line["styles"]
    if line.get("prompt_weights"):
        prompt = without_weights(prompt)
    named_prompt = prompts.name_placeholder(prompt, line["style"])
    names = prompts.names_in(prompts.style_only(named_prompt))
    if not names or not set(names) <= hashes.keys():
        raise UserError(f"the prompt {prompt[:80]!r} should name its styles, {', '.join(hashes)}; paint it again")
    styles = tuple(
        PaintedStyle(str(StyleRef.parse(name).at(line.get("checkpoint", 0))), hashes[name])
        for name in hashes
        if name in names
    )
    file = inside(folder, line["file"])
    if file is None:
        raise UserError(f"its file, {shortened(str(line['file']))}, is outside of the folder; paint it again")
    return PaintedPicture(file, prompt, plain_context(named_prompt), styles, model=line["model"], line=line)


def plain_context(prompt: str) -> str:
    """The prompt without its style, in plain words: a placeholder that is not a style becomes its name.

    "A {dog} in the style of {gogh}" becomes "A dog". The result is empty if the prompt only names a style.

    Raises:
        UserError: a brace without its partner.
    """
    parts = parse_prompt(prompts.context_only(prompt))
    return " ".join("".join(part.name if isinstance(part, Placeholder) else part for part in parts).split())


def has_subject(prompt: str) -> bool:
    """Whether a prompt says more than its opening, such as "A painting", and the style."""
    return plain_context(prompt) not in ("", plain_context(prompts.style_only(prompt)))


def group_labels(pictures: Iterable[PaintedPicture]) -> dict[tuple[str, ...], str]:
    """A label for each combination of styles, by `PaintedPicture.style_hashes`.

    The label lists the names of the styles, and their hashes if other styles with the same names come first.
    """
    labels: dict[tuple[str, ...], str] = {}
    for picture in pictures:
        label = " + ".join(style.name for style in picture.styles)
        hashes = picture.style_hashes
        if hashes not in labels:
            labels[hashes] = f"{label} ({'+'.join(hashes)})" if label in labels.values() else label
    return labels
