"""The words for the embedded model's pictures: painters' names, and captions in several wordings.

Captions leave out attributes at random and name the style by the painter, by the technique, or not at all. So the model
learns each word separately, and also the prompts of style and context guidance (context only, style only).
"""

import numpy as np

from dreamstyler_jax.mini.world.painters import TECHNIQUES
from dreamstyler_jax.mini.world.scenes import COLOURS, PLACES, SUBJECTS, TIMES

PAINTERS = 240  # the painters in the training set, numbers 0 to 239
HELD_OUT = 32  # the painters kept out of it, numbers 240 to 271
PHOTOGRAPH = PAINTERS + HELD_OUT  # the number that stands for "not painted"

TECHNIQUE_WORDS = {  # two words for each, in the order of painters.TECHNIQUES
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


def technique_of(painter: int) -> str:
    """The technique of painter number ``painter``; techniques take turns."""
    return tuple(TECHNIQUES)[painter % len(TECHNIQUES)]


def describe(subject: int, colour: int | None, place: int | None, time: int | None) -> str:
    """A scene in words, as in "a red house by the sea at night"; None leaves an attribute out."""
    words = ([] if colour is None else [tuple(COLOURS)[colour]]) + [SUBJECTS[subject]]
    article = "an" if words[0][0] in "aeiou" else "a"
    tail = ([] if place is None else [tuple(PLACES)[place]]) + ([] if time is None else [tuple(TIMES)[time]])
    return " ".join([article, *words, *tail])


def full_prompt(subject: int, colour: int, place: int, time: int) -> str:
    """The context-aware training prompt of a scene, with the placeholder ``{}`` for the style."""
    return f"A painting of {describe(subject, colour, place, time)} in the style of {{}}"


def caption(rng: np.random.Generator, subject: int, colour: int, place: int, time: int, painter: int) -> str:
    """Draws one of the many captions of a picture.

    Of 100 captions 8 name the painter and no scene. Of the others 60 in 100 name the painter, 20 the technique by one
    of its two words, and 20 no style; 15 leave out the colour, 20 the place and 25 the time. A photograph always begins
    "a photo of" and names no style.

    Args:
        rng: generator to draw from; the caption depends on its state and the label alone.
        subject, colour, place, time: indices into `scenes.ATTRIBUTES`.
        painter: number of the painter, or PHOTOGRAPH.
    """

    def unless(probability: float, value: int) -> int | None:
        return None if rng.random() < probability else int(value)

    context = describe(subject, unless(0.15, colour), unless(0.2, place), unless(0.25, time))
    if painter == PHOTOGRAPH:
        return f"a photo of {context}"
    opening = OPENINGS[rng.integers(len(OPENINGS))]
    technique = TECHNIQUE_WORDS[technique_of(painter)][rng.integers(2)]
    styles = (f" in the style of {PAINTER_NAMES[painter]}", f" in the style of {technique}", "")
    if rng.random() < 0.08:
        return opening + styles[0]
    return f"{opening} of {context}" + styles[rng.choice(3, p=(0.6, 0.2, 0.2))]
