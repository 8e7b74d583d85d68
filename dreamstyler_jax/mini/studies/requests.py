"""Prompts that ask for one to six things, and how many of them are seen: does a style drown the rest of a prompt?"""

from collections.abc import Sequence

import numpy as np

from dreamstyler_jax.mini.judge import Verdict
from dreamstyler_jax.mini.world import captions
from dreamstyler_jax.mini.world.manners import GROUNDS, PALETTES

ASKED_FOR = ("subject", "colour", "place", "time", "ground", "palette")  # in the order in which prompts name them
_SCENE = (
    4  # of these, what a picture shows; the others say how it is painted, which the style leaves open or contradicts
)


def requests(questions: np.ndarray, count: int) -> np.ndarray:
    """What each prompt asks for: int[Q, count], an index into the words for each of `ASKED_FOR`.

    Args:
        questions: int[Q, 4], the scenes to paint.
        count: 1 to 6.
    """
    number = np.arange(len(questions))
    manners = np.stack([number % len(GROUNDS), number // len(GROUNDS) % len(PALETTES)], axis=1)
    return np.concatenate([questions[:, :_SCENE], manners], axis=1)[:, :count]


def in_words(asked: Sequence[int], style: str) -> str:
    """The prompt for a request, as in "A painting of a red house by the sea in the style of {}"."""
    known = dict(zip(ASKED_FOR, map(int, asked), strict=False))
    scene = captions.describe(known["subject"], *(known.get(name) for name in ASKED_FOR[1:_SCENE]))
    ground = f" on {tuple(GROUNDS)[known['ground']]}" if "ground" in known else ""
    palette = f" in {tuple(PALETTES)[known['palette']]} colours" if "palette" in known else ""
    return f"A painting of {scene} in the style of {style}{ground}{palette}"


def obeyed(verdict: Verdict, asked: np.ndarray) -> np.ndarray:
    """The share of what was asked for that the judge sees, float[N] from 0 to 100.

    Args:
        verdict: about N pictures.
        asked: int[N, count], what each was to show.
    """
    answers = np.stack([getattr(verdict, name).argmax(-1) for name in ASKED_FOR[: asked.shape[1]]], axis=1)
    return 100.0 * (answers == asked).mean(axis=1)
