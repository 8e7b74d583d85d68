"""Prompts and what becomes of them: C_o, C_c and S* (Ahn et al. 2024, section 3.2), and conditionings.

A *conditioning* is a prompt encoded once per stage, float32[T, L, D]: the denoiser at timestep t sees row stage_of(t).
Learned vectors are spliced in between the token embedding and the text encoder, by position.
"""

import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.pipeline import Networks, StableDiffusion
from dreamstyler_jax.stable_diffusion.tokenizer import Placeholder, Tokenizer, parse_prompt, tokenize_with_placeholders
from dreamstyler_jax.style import Style, at_step, check_width

OBJECT_PROMPTS = (  # so that what the wordings share, the object, is all that is learned
    "A photo of {}",
    "A close photo of {}",
    "A bright photo of {}",
    "A dark photo of {}",
    "A picture of {}",
    "A good picture of {}",
    "A view of {}",
    "This is {}",
)
_MOST_VERSIONS = 10_000
# Below, a placeholder is {name} and a literal brace a character of Unicode's private use area.
_HIDE_BRACES, _SHOW_BRACES = str.maketrans("{}", "\ue000\ue001"), str.maketrans({"\ue000": "{{", "\ue001": "}}"})
_NAME = r"\{[^{}]*\}"
_NAMES = rf"{_NAME}(?:(?:\s*[,&+]?\s*|,?\s+and\s+){_NAME})*"
_MADE = r"(?:\b(?:as\s+)?(?:painted|drawn|made|done|rendered|inspired)\s+)?"

# What says that a placeholder is a style: "in the style of {}", "painted by {}", "in {} style".
STYLE_CLAUSE = re.compile(
    rf"""
    ,?\s*{_MADE}
    (?: \b(?:in\s+(?:the\s+|a\s+)?)?(?:style|manner)\s+of\s+{_NAMES}
      | \bby\s+{_NAMES}
      | \b(?:in|with)\s+(?:the\s+|an?\s+)?{_NAMES}[\s-]+style\b
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)
# A placeholder without such words: "a house, {}", "a {} painting".
BARE_NAMES = re.compile(rf",?\s*(?:\b(?:in|with|like)\s+(?:the\s+|an?\s+)?)?{_NAMES}(?:[\s-]*style\b)?", re.IGNORECASE)
# What a prompt must not be left with: empty brackets, a space before a comma, "of a" at the end.
LEFTOVERS = re.compile(r"\(\s*\)|\[\s*\]|\s+(?=[,.;:!?])|(?:\s+of)?\s+(?:an?|the)\s*$|\s+of\s*$")
# C_o: "A painting", "An old oil painting", as far as it is followed by what it shows, or by nothing.
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

    Alternatives are texts without braces and may be empty. Several groups give their product, the last one varying
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
    if math.prod(map(len, versions)) > _MOST_VERSIONS:
        raise UserError(f"the prompt {prompt[:80]!r} has more than {_MOST_VERSIONS} versions: give fewer alternatives")
    return list(dict.fromkeys(re.sub(r"\s+", " ", "".join(words)).strip() for words in itertools.product(*versions)))


def names_in(prompt: str) -> list[str]:
    """The names of a prompt's placeholders in their order, "" for {}."""
    return [part.name for part in parse_prompt(prompt) if isinstance(part, Placeholder)]


def name_placeholder(prompt: str, name: str, step: int = 0) -> str:
    """The prompt with {name} for each {}, and with every style as it was after ``step`` training steps (`at_step`)."""
    parts = [
        Placeholder(at_step(part.name or name, step)) if isinstance(part, Placeholder) else part
        for part in parse_prompt(prompt)
    ]
    return "".join(part.replace("{", "{{").replace("}", "}}") if isinstance(part, str) else str(part) for part in parts)


def context_only(prompt: str) -> str:
    """The prompt without its style: "A painting of a house in the style of {}" -> "A painting of a house".

    Takes away each placeholder that is said to be a style ("in the style of {}", "painted by {}", "in {} style"), with
    these words; where none is, every placeholder. So in "a {dog} in the style of {gogh}" the dog stays. Without a
    placeholder it is the prompt itself.

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

    The opening C_o is the prompt's own if it begins with some kind of picture, as "An oil painting of" does, or else
    "A painting". Without a placeholder it is all there is.

    Raises:
      UserError: a lone brace.
    """
    text, clause = _with_clause(prompt)
    names = [name for match in clause.finditer(text) for name in re.findall(_NAME, match[0])]
    opening = OPENING.match(context_only(prompt))
    return f"{opening[0] if opening else 'A painting'}{' in the style of ' if names else ''}{', '.join(names)}"


def _with_clause(prompt: str) -> tuple[str, re.Pattern[str]]:
    """The prompt in this module's notation, and the pattern of what in it is style."""
    text = "".join(str(p) if isinstance(p, Placeholder) else p.translate(_HIDE_BRACES) for p in parse_prompt(prompt))
    return text, STYLE_CLAUSE if STYLE_CLAUSE.search(text) else BARE_NAMES


def initial_table(model: StableDiffusion, init_word: str, stages: int, vectors: int) -> np.ndarray:
    """The table float32[T, V, D] before training: in every stage the embedding of ``init_word``.

    Several words give each vector its own; with fewer words than vectors the last one is repeated. Of a word of
    several tokens the vector is their mean.
    """
    words = init_word.split()
    table = np.asarray(model.embedding_table)
    start = np.stack([table[model.tokenizer.words(word)].mean(0) for word in words])
    start = start[np.minimum(np.arange(vectors), len(words) - 1)]
    return np.broadcast_to(start, (stages, *start.shape)).astype(np.float32)


def join_tables(styles: Mapping[str, Style]) -> np.ndarray:
    """The vectors of one or several styles side by side: float32[T, sum V, D], T the least common multiple of theirs.

    Repeating each stage of a table leaves the vectors seen at every timestep as they are.
    """
    stages = math.lcm(*(style.stages for style in styles.values()))
    return np.concatenate([np.repeat(s.table, stages // s.stages, axis=0) for s in styles.values()], axis=1)


def tokenize(tokenizer: Tokenizer, prompts: Sequence[str], vectors: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """``ids`` and ``slots``, int32[P, L], of prompts; ``vectors``: how many each style has per stage."""
    pairs = [tokenize_with_placeholders(tokenizer, prompt, vectors) for prompt in prompts]
    return np.stack([ids for ids, _ in pairs]), np.stack([slots for _, slots in pairs])


def splice(embeddings: Array, slots: Array, vectors: Array) -> Array:
    """Puts learned vectors among token vectors.

    Args:
      embeddings: [B, L, D], the token vectors.
      slots: int32[B, L], -1 where the token stays, else the number of the vector that takes its place.
      vectors: [B, N, D], each row's own.
    """
    taken = jnp.take_along_axis(vectors, jnp.maximum(slots, 0)[..., None], axis=1)
    return jnp.where(slots[..., None] >= 0, taken.astype(embeddings.dtype), embeddings)


@functools.partial(jax.jit, static_argnames="networks")
def encode_ids(networks: Networks, params: Any, ids: Array, slots: Array, table: Array) -> Array:
    """Conditionings [P, T, L, D] of `tokenize`d prompts, with the vectors of a table [T, V, D] in their slots."""
    embeddings = networks.embed_tokens(params, ids)

    def one_stage(vectors: Array) -> Array:
        spliced = splice(embeddings, slots, jnp.broadcast_to(vectors, (ids.shape[0], *vectors.shape)))
        return networks.encode_text(params, spliced, ids)

    return jnp.moveaxis(jax.lax.map(one_stage, table), 0, 1)


def encode(model: StableDiffusion, prompts: Sequence[str], styles: Mapping[str, Style]) -> Array:
    """The conditionings [P, T, L, D] of prompts; T is 1 where there are no styles.

    Raises:
      UserError: a style of another model, an unknown placeholder, or one beyond the window.
    """
    check_width(styles, model.text_width)
    ids, slots = tokenize(model.tokenizer, prompts, {name: style.vectors for name, style in styles.items()})
    table = join_tables(styles) if styles else np.zeros((1, 1, model.text_width), np.float32)
    return encode_ids(model.networks, model.params, ids, slots, table)


def beside(picture: str | Path) -> str | None:
    """The prompt of a picture, from the text file of its name, as one line; None where there is none.

    Raises:
      UserError: the file is empty, or cannot be read.
    """
    file = Path(picture).with_suffix(".txt")
    try:
        text = " ".join(file.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
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
