"""What the embedded model's pictures are called: painters' names and captions in several wordings.

Captions leave out attributes at random and name the style by the painter, by the technique, or not at all, so that the
model learns each word on its own and the prompts of style-and-context guidance (context only, style only) are all in
its language. Deterministic in the random generator given.
"""

import numpy as np

from dreamstyler_jax.mini.world.painter import TECHNIQUES
from dreamstyler_jax.mini.world.scenes import COLOURS, PLACES, SUBJECTS, TIMES

PAINTERS = 240  # trained on
HELD_OUT = 32  # never trained on; numbers PAINTERS to PAINTERS + HELD_OUT - 1
PHOTOGRAPH = PAINTERS + HELD_OUT  # the number of what is not painted at all

TECHNIQUE_WORDS = {  # two names for each, in the order of painter.TECHNIQUES
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
    """The technique of painter number ``painter``: they take turns."""
    return tuple(TECHNIQUES)[painter % len(TECHNIQUES)]


def describe(subject: int, colour: int | None, place: int | None, time: int | None) -> str:
    """The context of a scene in words, "a red house by the sea at night"; None leaves an attribute out."""
    words = ([] if colour is None else [tuple(COLOURS)[colour]]) + [SUBJECTS[subject]]
    article = "an" if words[0][0] in "aeiou" else "a"
    tail = ([] if place is None else [tuple(PLACES)[place]]) + ([] if time is None else [tuple(TIMES)[time]])
    return " ".join([article, *words, *tail])


def full_prompt(subject: int, colour: int, place: int, time: int) -> str:
    """The context-aware training prompt of a scene, with its placeholder."""
    return f"A painting of {describe(subject, colour, place, time)} in the style of {{}}"


def caption(rng: np.random.Generator, subject: int, colour: int, place: int, time: int, painter: int) -> str:
    """One of the many captions of a picture.

    Of 100 captions: 8 are about the style alone; of the rest 60 name the painter, 20 the technique in one of its two
    names, 20 no style. Colour is left out in 15, place in 20 and time in 25 of 100. A photograph is called one, always.
    """
    some = lambda value, p: None if rng.random() < p else int(value)  # noqa: E731
    context = describe(subject, some(colour, 0.15), some(place, 0.2), some(time, 0.25))
    if painter == PHOTOGRAPH:
        return f"a photo of {context}"
    opening = OPENINGS[rng.integers(len(OPENINGS))]
    technique = TECHNIQUE_WORDS[technique_of(painter)][rng.integers(2)]
    style = (f" in the style of {PAINTER_NAMES[painter]}", f" in the style of {technique}", "")
    if rng.random() < 0.08:
        return opening + style[0]
    return f"{opening} of {context}" + style[rng.choice(3, p=(0.6, 0.2, 0.2))]
