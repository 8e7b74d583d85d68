"""The words for the embedded model's pictures: painters' names, and captions in several wordings.

Captions leave out attributes at random and say by whom a picture is painted, how (technique, palette, touch and ground,
in all combinations), or neither. So the model learns each word separately, also the prompts of style and context
guidance (context only, style only), and a style that no word stands for lies between words that it knows.
"""

from collections.abc import Sequence

import numpy as np

from dreamstyler_jax.mini.world.manners import GROUNDS, PALETTES, TOUCHES
from dreamstyler_jax.mini.world.scenes import COLOURS, PLACES, SUBJECTS, TIMES

PAINTERS = 240  # the named painters of the training set, numbers 0 to 239
HELD_OUT = 32  # the painters kept out of it, numbers 240 to 271
PHOTOGRAPH = PAINTERS + HELD_OUT  # the number that stands for "not painted"
NAMELESS = PHOTOGRAPH + 1  # the number of every painter without a name

TECHNIQUE_WORDS = {  # two words for each, in the order of manners.TECHNIQUES
    "dots": ("dots", "pointillism"),
    "dabs": ("dabs", "impressionism"),
    "swirls": ("swirls", "whirling strokes"),
    "mosaic": ("mosaic", "tiles"),
    "hatching": ("hatching", "ink lines"),
    "cartoon": ("cartoon", "flat colours"),
    "wash": ("wash", "watercolour"),
    "knife": ("knife", "thick paint"),
    "woodcut": ("woodcut", "carved lines"),
    "tapestry": ("tapestry", "woven threads"),
}
OPENINGS = ("a painting", "a painting", "a painting", "a picture", "a drawing")


def _names(count: int) -> tuple[str, ...]:
    """Made-up surnames of two or three syllables, all different."""
    rng = np.random.default_rng(1874)
    onsets = [*"bdfgklmnprstvz", "br", "dr", "st", "tr"]
    nuclei, endings = ["a", "e", "i", "o", "u", "ei", "au"], ["", "n", "r", "l", "s", "sk", "ni"]
    names: dict[str, None] = {}
    while len(names) < count:
        syllables = [rng.choice(onsets) + rng.choice(nuclei) for _ in range(rng.integers(2, 4))]
        names["".join(syllables) + rng.choice(endings)] = None
    return tuple(names)


PAINTER_NAMES = _names(PAINTERS + HELD_OUT)


def describe(subject: int, colour: int | None, place: int | None, time: int | None) -> str:
    """A scene in words, as in "a red house by the sea at night"; None leaves an attribute out."""
    words = ([] if colour is None else [tuple(COLOURS)[colour]]) + [SUBJECTS[subject]]
    article = "an" if words[0][0] in "aeiou" else "a"
    tail = ([] if place is None else [tuple(PLACES)[place]]) + ([] if time is None else [tuple(TIMES)[time]])
    return " ".join([article, *words, *tail])


def full_prompt(subject: int, colour: int, place: int, time: int) -> str:
    """The context-aware training prompt of a scene, with the placeholder ``{}`` for the style."""
    return f"A painting of {describe(subject, colour, place, time)} in the style of {{}}"


def manner_words(rng: np.random.Generator, manner: Sequence[int]) -> str:
    """Some of the words for a manner, as in " in the style of mosaic in warm colours on dark canvas"; at least one.

    Args:
        rng: generator to draw from.
        manner: indices of technique, palette, touch and ground, as in `manners.Manner`.
    """
    technique, palette, touch, ground = manner
    word = tuple(TECHNIQUE_WORDS.values())[technique][rng.integers(2)]
    phrases = (
        f" in the style of {word}",
        f" in {tuple(PALETTES)[palette]} colours",
        f" with {tuple(TOUCHES)[touch]} strokes",
        f" on {tuple(GROUNDS)[ground]}",
    )
    said = rng.random(4) < (0.75, 0.6, 0.4, 0.4)
    return "".join(phrase for phrase, is_said in zip(phrases, said, strict=True) if is_said) or phrases[0]


def caption(rng: np.random.Generator, label: Sequence[int] | np.ndarray) -> str:
    """Draws one of the many captions of a picture.

    The style is named by the painter (55 in 100), if the painter has a name, by `manner_words` (30; of a nameless
    painter 85), or not at all. 15 in 100 leave out the colour, 20 the place and 25 the time, and 6 the whole scene. A
    photograph always begins "a photo of" and has no style.

    Args:
        rng: generator to draw from; the caption depends on its state and the label alone.
        label: a row of `data.Pictures.labels`.
    """

    def unless(probability: float, value: int) -> int | None:
        return None if rng.random() < probability else int(value)

    subject, colour, place, time, painter, *manner = map(int, label)
    context = describe(subject, unless(0.15, colour), unless(0.2, place), unless(0.25, time))
    if painter == PHOTOGRAPH:
        return f"a photo of {context}"
    opening = OPENINGS[rng.integers(len(OPENINGS))]
    words = manner_words(rng, manner)
    name = words if painter == NAMELESS else f" in the style of {PAINTER_NAMES[painter]}"
    if rng.random() < 0.06:
        return opening + name
    return f"{opening} of {context}" + (name, words, "")[rng.choice(3, p=(0.55, 0.3, 0.15))]
