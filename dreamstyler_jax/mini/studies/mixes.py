"""Mixes of two painters: is a style half-way between two others near to both?"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from dreamstyler_jax.mini.studies.exam import Exam
from dreamstyler_jax.mini.world import data, scenes
from dreamstyler_jax.mixing import mix
from dreamstyler_jax.runtime import images
from dreamstyler_jax.style import Style

MIXES = ("first", "linear", "sphere")  # the first painter's style alone, and half of each along a line or great circles
_FIRST_KEY = 4_000_000  # beyond the chunks of the training set, and the exams


def mixed(first: Style, second: Style, way: str) -> Style:
    """The style half-way between two, in one of the ways of `MIXES`."""
    if way == "first":
        return first
    norm = {"norm": "fixed" if way == "sphere" else "free"}  # by which recipes tell how to blend
    styles = {
        name: dataclasses.replace(style, name=name, metadata={**style.metadata, **norm})
        for name, style in (("first", first), ("second", second))
    }
    return mix("first+second", styles)


def answered_by(exam: Exam, painter: int) -> Exam:
    """The questions of an exam with another painter's pictures as the truth."""
    key = jax.random.fold_in(jax.random.key(0), _FIRST_KEY + painter)
    scene = scenes.showing(key, *np.tile(exam.questions, (2, 1)).T)
    pictures = data.render(key, data.by_number(np.full(len(scene.subject), painter)), scene)
    return exam._replace(painter=painter, truth=images.to_unit(pictures.pixels).reshape(exam.truth.shape))


def scores_of_both(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How near pictures are to both painters, from their scores against each (`exam.Evaluator.scores`).

    Returns:
        ``text``, which both have; the mean of both for ``truth`` and ``distance``; and ``farther``, the distance to the
        painter that is farther.
    """
    means = {name: (first[name] + second[name]) / 2 for name in ("truth", "distance")}
    return {"text": first["text"], **means, "farther": np.maximum(first["distance"], second["distance"])}
