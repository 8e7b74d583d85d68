"""What prompts say: placeholders, and their parts C_o, C_c and S* (Ahn et al. 2024, section 3.2)."""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.stable_diffusion.emphasis import WeightedText, parse_weights
from dreamstyler_jax.stable_diffusion.placeholders import Placeholder, parse_prompt
from dreamstyler_jax.style import Style, StyleRef

OBJECT_PROMPTS = (  # several wordings, so that the style learns only what they share: the object
    "A photo of {}",
    "A close photo of {}",
    "A bright photo of {}",
    "A dark photo of {}",
    "A picture of {}",
    "A good picture of {}",
    "A view of {}",
    "This is {}",
)
# The patterns below see a placeholder as {name} and a literal brace as a character of Unicode's private use area.
_HIDE_BRACES, _SHOW_BRACES = str.maketrans("{}", "\ue000\ue001"), str.maketrans({"\ue000": "{{", "\ue001": "}}"})
_NAME = r"\{[^{}]*\}"
# Atomic, and with one way to read each space between names: the time would double with every name otherwise.
_NAMES = rf"(?>{_NAME}(?:(?:\s*(?:[,&+]\s*)?|,?\s+and\s+){_NAME})*)"
# Where another name does not stand before it: from there the same end was found already.
_FIRST = "".join(
    rf"(?<!\}}{between})" for between in ("", r"[\s,&+]", r"[,&+]\s", r"\s[,&+]", r"\s[,&+]\s", r"\sand\s", r",\sand\s")
)
_AS_IF = r"(?:as\s+(?:(?:if|though)\s+)?(?:it\s+(?:was|were|had\s+been)\s+)?)?"
_MADE = rf"(?:\b{_AS_IF}(?:painted|drawn|made|done|rendered|inspired)\s+)?"
# Not in "a {cat} standing by {the_house}", but in "a painting by {}".
_BY = (
    r"(?:(?<!ing\s)(?<!stands\s)(?<!sits\s)(?<!lies\s)|(?<=painting\s)|(?<=drawing\s)|(?<=etching\s)|(?<=graving\s))by"
)
_KIND = r"(?:(?!style|manner)[\w-]+\s+){0,2}"  # "art", "late painting"

# The words that make a placeholder a style: "in the (art) style of {}", "painted by {}", "in {} style", "{}'s style".
STYLE_CLAUSE = re.compile(
    rf"""
    ,?\s*{_MADE}
    (?: \b(?:in\s+(?:(?:the|an?)\s+)?{_KIND})?(?:style|manner)\s+of\s+{_NAMES}
      | \b{_BY}\s+{_NAMES}
      | \b(?:in|with)\s+(?:the\s+|an?\s+)?{_NAMES}[\s-]+style\b
      | (?:\b(?:in|with)\s+)?{_FIRST}{_NAMES}['\u2019]s\s+{_KIND}(?:style|manner)\b
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)
# A placeholder without such words: "a house, {}", "a {} painting".
BARE_NAMES = re.compile(rf",?\s*(?:\b(?:in|with|like)\s+(?:the\s+|an?\s+)?)?{_NAMES}(?:[\s-]*style\b)?", re.IGNORECASE)
# What removing a style may leave behind: empty brackets, a space before a comma, "of a" or "as if by" at the end.
# (The last of these begins where no such word stands before, or the time grows with the square of their number.)
_LEFT = r"\s+(?:an?|the|of|by|in|with|like|as|if|though|after|from)"
_NONE_BEFORE = r"(?<!\s(?:an|of|by|in|as|if))(?<!\sa)(?<!\sthe)(?<!\s(?:with|like|from))(?<!\safter)(?<!\sthough)"
LEFTOVERS = re.compile(rf"\(\s*\)|\[\s*\]|\s+(?=[,.;:!?])|{_NONE_BEFORE}(?:{_LEFT})+\s*$")
# C_o: "A painting", "An old oil painting", where it ends the prompt or "of" follows.
OPENING = re.compile(
    r"""
    (?:(?:an?|the)\s+)?
    (?:(?!(?:an?|the|of|in|on|by|at|with|and|near|beside)\b)[\w'-]+\s+){0,3}
    (?:painting|picture|drawing|sketch|portrait|illustration|image|photo|photograph|poster|print|rendering|artwork
      |watercolou?r|fresco|mural|mosaic|etching|engraving|woodcut|collage)
    (?=\s+(?:of|showing|depicting)\b|\s*$)
    """,
    re.VERBOSE | re.IGNORECASE,
)


def names_in(prompt: str) -> list[str]:
    """The names of a prompt's placeholders in their order, "" for {}."""
    return [part.name for part in parse_prompt(prompt) if isinstance(part, Placeholder)]


def name_placeholder(prompt: str, name: str, step: int = 0) -> str:
    """The prompt with {name} for each {}, and with every style as it was after ``step`` training steps.

    A style that names a step already, as in {gogh@100}, keeps it; 0 stands for the final styles.
    """
    parts = [
        Placeholder(str(StyleRef.parse(part.name or name).at(step))) if isinstance(part, Placeholder) else part
        for part in parse_prompt(prompt)
    ]
    return "".join(part.replace("{", "{{").replace("}", "}}") if isinstance(part, str) else str(part) for part in parts)


def context_only(prompt: str, *, weighted: bool = False) -> str:
    """The prompt without its style: "A painting of a house in the style of {}" -> "A painting of a house".

    Removes each placeholder that the prompt calls a style ("in the style of {}", "painted by {}", "in {} style"),
    together with these words. If it calls none a style, removes every placeholder. So the dog stays in
    "a {dog} in the style of {gogh}". A prompt without a placeholder stays as it is.

    Args:
        prompt: text with placeholders.
        weighted: whether it has weights, see `emphasis`; what stays keeps its own.

    Raises:
        UserError: a lone brace.
    """
    context = _context(_read(prompt, weighted))
    return prompt if context is None else _written(context, weighted)


def style_only(prompt: str, *, weighted: bool = False) -> str:
    """The prompt without its context: "A painting of a house in the style of {}" -> "A painting in the style of {}".

    The opening C_o is the prompt's own if it begins with a kind of picture, as "An oil painting of" does, and
    "A painting" otherwise. A prompt without a placeholder leaves the opening alone.

    Args:
        prompt: text with placeholders.
        weighted: whether it has weights, see `emphasis`; the opening, the names and the words before them keep theirs.

    Raises:
        UserError: a lone brace.
    """
    text = _read(prompt, weighted)
    names = [
        text[clause.start() + name.start() : clause.start() + name.end()]
        for clause in _clause(text).finditer(text.text)
        for name in re.finditer(_NAME, clause[0])
    ]
    context = _context(text) or text
    opening = OPENING.match(context.text)
    style = [context[: opening.end()] if opening else WeightedText.of("A painting")]
    for number, name in enumerate(names):
        style += WeightedText.of(", " if number else " in the style of ", name.weights[0]), name
    return _written(WeightedText.joined(style), weighted)


def calls_a_style(prompt: str, *, weighted: bool = False) -> bool:
    """Whether a prompt says in words which placeholder is a style; otherwise `context_only` has to guess.

    Raises:
        UserError: a lone brace.
    """
    return _clause(_read(prompt, weighted)) is STYLE_CLAUSE


def guidance_prompts(
    prompt: str, negative_prompt: str = "", weak_prompt: str = "", *, weighted: bool = False
) -> tuple[str, str, str, str, str]:
    """The prompts of `guidance.ROWS`: negative, full, context only, style only, weak.

    Raises:
        UserError: a lone brace.
    """
    context, style = context_only(prompt, weighted=weighted), style_only(prompt, weighted=weighted)
    return negative_prompt, prompt, context, style, weak_prompt


def _read(prompt: str, weighted: bool) -> WeightedText:
    """The prompt in this module's notation, and with one space for many.

    (Otherwise the patterns take a time that grows with the square of their number.)
    """
    parts = [WeightedText.of("")]
    for piece, weight in parse_weights(prompt) if weighted else [(prompt, 1.0)]:
        for part in parse_prompt(piece):
            text = str(part)
            if not isinstance(part, Placeholder):
                text = re.sub(r"\s+", " ", part).translate(_HIDE_BRACES)
                text = text.lstrip(" ") if parts[-1].text.endswith(" ") else text
            if text:
                parts.append(WeightedText.of(text, weight))
    return WeightedText.joined(parts)


def _written(text: WeightedText, weighted: bool) -> str:
    return (str(text) if weighted else text.text).translate(_SHOW_BRACES)


def _clause(text: WeightedText) -> re.Pattern[str]:
    """The pattern that finds the style."""
    return STYLE_CLAUSE if STYLE_CLAUSE.search(text.text) else BARE_NAMES


def _context(text: WeightedText) -> WeightedText | None:
    """The text without its style; None if it has none."""
    clause = _clause(text)
    if not clause.search(text.text):
        return None
    return text.sub(clause, "").sub(r"\s+", " ").sub(LEFTOVERS, "").strip(" ,;:")


def sidecar_prompt(picture: str | os.PathLike) -> str | None:
    """The prompt in the text file with a picture's name (``boat.txt`` for ``boat.png``), as one line, or None.

    Raises:
        UserError: the file is empty, or cannot be read.
    """
    if not Path(picture).name or "\0" in str(picture):
        raise UserError(f"there is no picture {str(picture)!r}")
    file = path_of(picture).with_suffix(".txt")
    try:
        text = " ".join(file.read_bytes().decode("utf-8-sig").split())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror or error
        raise UserError(f"cannot read {file}, the prompt of {Path(picture).name}: {reason}") from error
    if not text:
        raise UserError(f"{file} is empty: write into it what {Path(picture).name} shows, or remove it")
    return text


def warn_of_missing_captions(pictures: Sequence[str], advice: str) -> None:
    """Warns, once for all, of pictures that a style is learned from although nothing says what they show.

    Args:
        pictures: their names; with none there is no warning.
        advice: how to say it.
    """
    if pictures:
        warnings.warn(
            f"{listing(pictures)} {'has' if len(pictures) == 1 else 'have'} no caption, so all of what is shown is "
            f"learned as style: {advice}",
            stacklevel=2,
        )


def require_placeholders(prompts: Sequence[str], styles: Mapping[str, Style]) -> None:
    """Refuses prompts that would silently ignore the styles given.

    Raises:
        UserError: styles are given and a prompt has no placeholder.
    """
    for prompt in prompts:
        if styles and not any(isinstance(part, Placeholder) for part in parse_prompt(prompt)):
            raise UserError(f"the prompt {prompt[:80]!r} has no placeholder: write {{}} where the style goes")
