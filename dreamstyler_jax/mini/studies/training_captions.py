"""Captions of a training picture, right and wrong: what does it cost a style if its caption is not true?"""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dreamstyler_jax.mini.captioner import EmbeddedCaptioner
from dreamstyler_jax.mini.world import captions, scenes

load_captioner = functools.cache(EmbeddedCaptioner.load)


def wrong(label: np.ndarray, attributes: int) -> np.ndarray:
    """A scene int[4] with other values of its first attributes, always the same ones."""
    counts = np.array([len(words) for words in scenes.ATTRIBUTES.values()])
    return np.where(np.arange(len(counts)) < attributes, (label + counts // 2) % counts, label)


def _true(label: np.ndarray, *_: object) -> str:
    return captions.full_prompt(*map(int, label))


def _by_judge(label: np.ndarray, picture: Image.Image, model: Path) -> str:
    del label
    return load_captioner(model)(picture).prompt


def _subject_alone(label: np.ndarray, *_: object) -> str:
    return f"A painting of {captions.describe(int(label[0]), None, None, None)} in the style of {{}}"


# Each makes the training prompt of a picture from what it shows, int[4], the picture, and the embedded model's folder.
TRAINING_CAPTIONS: dict[str, Callable[[np.ndarray, Image.Image, Path], str]] = {
    "true": _true,
    "judge": _by_judge,
    "subject alone": _subject_alone,
    "wrong subject": lambda label, *_: _true(wrong(label, 1)),
    "all wrong": lambda label, *_: _true(wrong(label, len(label))),
}
