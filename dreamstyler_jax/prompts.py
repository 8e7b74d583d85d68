"""What prompts say: alternatives, placeholders, and their parts C_o, C_c and S* (Ahn et al. 2024, section 3.2)."""

import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.errors import UserError
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
_MAX_VERSIONS = 10_000
# The patterns below see a placeholder as {name} and a literal brace as a character of Unicode's private use area.
_HIDE_BRACES, _SHOW_BRACES = str.maketrans("{}", "\ue000\ue001"), str.maketrans({"\ue000": "{{", "\ue001": "}}"})
_NAME = r"\{[^{}]*\}"
# Atomic, and with one way to read each space between names: the time would double with every name otherwise.
_NAMES = rf"(?>{_NAME}(?:(?:\s*(?:[,&+]\s*)?|,?\s+and\s+){_NAME})*)"
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
      | (?:\b(?:in|with)\s+)?{_NAMES}['\u2019]s\s+{_KIND}(?:style|manner)\b
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)
# A placeholder without such words: "a house, {}", "a {} painting".
BARE_NAMES = re.compile(rf",?\s*(?:\b(?:in|with|like)\s+(?:the\s+|an?\s+)?)?{_NAMES}(?:[\s-]*style\b)?", re.IGNORECASE)
# What removing a style may leave behind: empty brackets, a space before a comma, "of a" or "as if by" at the end.
LEFTOVERS = re.compile(
    r"\(\s*\)|\[\s*\]|\s+(?=[,.;:!?])|(?:\s+(?:an?|the|of|by|in|with|like|as|if|though|after|from))+\s*$"
)
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


def expand(prompt: str) -> list[str]:
    """All versions of a prompt with alternatives: "a {dog|cat} in {}" -> ["a dog in {}", "a cat in {}"].

    Alternatives are texts without braces and may be empty. Several groups give their product; the last one varies
    fastest.

    Raises:
        UserError: a lone brace, or more than 10 000 versions.
    """
    versions = []
    for part in parse_prompt(prompt):
        if isinstance(part, Placeholder) and "|" in part.name:
            versions.append([word.strip() for word in part.name.split("|")])
        else:
            versions.append(
                [str(part) if isinstance(part, Placeholder) else part.replace("{", "{{").replace("}", "}}")]
            )
    if math.prod(map(len, versions)) > _MAX_VERSIONS:
        raise UserError(f"the prompt {prompt[:80]!r} has more than {_MAX_VERSIONS} versions: give fewer alternatives")
    return list(dict.fromkeys(re.sub(r"\s+", " ", "".join(words)).strip() for words in itertools.product(*versions)))


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


def context_only(prompt: str) -> str:
    """The prompt without its style: "A painting of a house in the style of {}" -> "A painting of a house".

    Removes each placeholder that the prompt calls a style ("in the style of {}", "painted by {}", "in {} style"),
    together with these words. If it calls none a style, removes every placeholder. So the dog stays in
    "a {dog} in the style of {gogh}". A prompt without a placeholder stays as it is.

    Raises:
        UserError: a lone brace.
    """
    text, clause = _with_clause(prompt)
    if not clause.search(text):
        return prompt
    text = LEFTOVERS.sub("", re.sub(r"\s+", " ", clause.sub("", text)))
    return text.strip(" ,;:").translate(_SHOW_BRACES)


def style_only(prompt: str) -> str:
    """The prompt without its context: "A painting of a house in the style of {}" -> "A painting in the style of {}".

    The opening C_o is the prompt's own if it begins with a kind of picture, as "An oil painting of" does, and
    "A painting" otherwise. A prompt without a placeholder leaves the opening alone.

    Raises:
        UserError: a lone brace.
    """
    text, clause = _with_clause(prompt)
    names = [name for match in clause.finditer(text) for name in re.findall(_NAME, match[0])]
    opening = OPENING.match(context_only(prompt))
    return f"{opening[0] if opening else 'A painting'}{' in the style of ' if names else ''}{', '.join(names)}"


def calls_a_style(prompt: str) -> bool:
    """Whether a prompt says in words which placeholder is a style; otherwise `context_only` has to guess."""
    return STYLE_CLAUSE.search(prompt) is not None


def guidance_prompts(prompt: str, negative_prompt: str = "", weak_prompt: str = "") -> tuple[str, str, str, str, str]:
    """The prompts of `guidance.ROWS`: negative, full, context only, style only, weak.

    Raises:
        UserError: a lone brace.
    """
    return negative_prompt, prompt, context_only(prompt), style_only(prompt), weak_prompt


def _with_clause(prompt: str) -> tuple[str, re.Pattern[str]]:
    """The prompt in this module's notation, and the pattern that finds its style."""
    text = "".join(
        # One space for many, or the patterns take a time that grows with the square of their number.
        str(part) if isinstance(part, Placeholder) else re.sub(r"\s+", " ", part).translate(_HIDE_BRACES)
        for part in parse_prompt(prompt)
    )
    return text, STYLE_CLAUSE if STYLE_CLAUSE.search(text) else BARE_NAMES


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


def require_placeholders(prompts: Sequence[str], styles: Mapping[str, Style]) -> None:
    """Refuses prompts that would silently ignore the styles given.

    Raises:
        UserError: styles are given and a prompt has no placeholder.
    """
    for prompt in prompts:
        if styles and not any(isinstance(part, Placeholder) for part in parse_prompt(prompt)):
            raise UserError(f"the prompt {prompt[:80]!r} has no placeholder: write {{}} where the style goes")
