"""The words that the embedded model knows: those of the captions that it was trained on."""

import functools
import re
import warnings
from collections.abc import Iterable

from dreamstyler_jax.runtime.errors import listing
from dreamstyler_jax.stable_diffusion.placeholders import Placeholder, parse_prompt


@functools.cache
def known_words() -> frozenset[str]:
    """All words of the captions, in lower case."""
    from dreamstyler_jax.mini.world import captions, manners, scenes  # they import JAX

    phrases = ["a photo of an in the style of colours with strokes on", *manners.PALETTES, *manners.TOUCHES]
    phrases += [*manners.GROUNDS, *captions.OPENINGS, *captions.PAINTER_NAMES[: captions.PAINTERS]]
    phrases += [phrase for pair in captions.TECHNIQUE_WORDS.values() for phrase in pair]
    phrases += [word for words in scenes.ATTRIBUTES.values() for word in words]
    return frozenset(_words(" ".join(phrases)))


def unknown_words(prompts: Iterable[str]) -> list[str]:
    """The words of prompts that the embedded model does not know, without duplicates; placeholders do not count.

    Raises:
        UserError: a prompt has a lone brace.
    """
    texts = [part for prompt in prompts for part in parse_prompt(prompt) if not isinstance(part, Placeholder)]
    return [word for word in dict.fromkeys(_words(" ".join(texts))) if word not in known_words()]


def warn_of_unknown_words(model: str, prompts: Iterable[str]) -> None:
    """Warns of words in prompts for the embedded model that it does not know. Other models are not checked.

    Args:
        model: the model, as in the settings.
        prompts: texts with placeholders.
    """
    unknown = unknown_words(prompts) if model == "mini" else []
    if unknown:
        from dreamstyler_jax.mini.world.scenes import SUBJECTS

        warnings.warn(
            f"the embedded model does not know {listing(unknown)}; it paints {', '.join(SUBJECTS)}, "
            "and docs/mini.md lists its other words",
            stacklevel=2,
        )


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())
