"""The scores of a picture: the table `SCORES`, and the function behind each line.

A function maps a `Batch` of N pictures to N numbers. A number that has no meaning is nan.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dreamstyler_jax.evaluation.comparisons import Batch, Networks
from dreamstyler_jax.evaluation.contents import content_pictures
from dreamstyler_jax.evaluation.painted import has_subject
from dreamstyler_jax.evaluation.scores import corrected_score, cosine_score, leakage_score, style_score


def text(batch: Batch) -> list[float]:
    """Cosine of CLIP's features of a picture and of its prompt without the style, if there are words besides it."""
    return [
        float(cosine_score(feature, batch.references.text_features[picture.context])) if picture.context else math.nan
        for picture, feature in zip(batch.painted, batch.features("clip"), strict=True)
    ]


def leakage(batch: Batch) -> list[float]:
    """Whether CLIP sees the training prompts' subject instead of the prompt's, if both have one, and not the same."""
    references, scale = batch.references, batch.references.networks["clip"].logit_scale
    scores = []
    for picture, feature in zip(batch.painted, batch.features("clip"), strict=True):
        contexts = [c for c in references.training_data[picture.style_hashes].contexts if c != picture.context]
        if not contexts or not has_subject(picture.prompt):
            scores.append(math.nan)
            continue
        training_features = np.stack([references.text_features[context] for context in contexts])
        prompt_feature = references.text_features[picture.context]
        scores.append(float(leakage_score(feature, prompt_feature, training_features, scale).mean()))
    return scores


def similarity(network: str, batch: Batch) -> list[float]:
    """Cosine of a network's features of a picture and of each training picture, averaged."""
    return [
        float(cosine_score(feature, batch.references.features(network, picture.style_hashes)).mean())
        for picture, feature in zip(batch.painted, batch.features(network), strict=True)
    ]


def corrected_similarity(network: str, batch: Batch) -> list[float]:
    """The same, corrected by how close both pictures are to the training pictures of all styles."""
    gallery = batch.references.gallery(network)
    return [
        float(corrected_score(feature, batch.references.features(network, picture.style_hashes), gallery).mean())
        for picture, feature in zip(batch.painted, batch.features(network), strict=True)
    ]


def gram_similarity(network: str, batch: Batch) -> list[float]:
    """Likeness of the Gram matrices of a picture and of each training picture, averaged."""
    painted, scores = batch.grams(network), []
    for row, picture in enumerate(batch.painted):
        training = batch.references.grams(network, picture.style_hashes, *batch.size)
        repeated = painted.rows(np.full(len(training.levels[0]), row))
        scores.append(float(style_score(repeated, training).mean()))
    return scores


def content_distance(batch: Batch) -> list[float]:
    """LPIPS between a picture and the picture that it repaints, if it repaints one."""
    contents = enumerate(content_pictures(batch.painted, *batch.size))
    repainted = {row: content for row, content in contents if content is not None}
    scores = np.full(len(batch.painted), math.nan)
    if rows := list(repainted):
        pairs = batch.pixels[rows], np.stack(list(repainted.values()))
        scores[rows] = batch.references.networks["lpips"].distances(*pairs)
    return scores.tolist()


class Score(NamedTuple):
    """A score of each picture.

    Attributes:
        needs: the network that computes it.
        compute: maps a batch to its scores.
        likeness: how the chart calls it, if it says how alike the styles are.
    """

    needs: str
    compute: Callable[[Batch], Sequence[float]]
    likeness: str = ""


SCORES = {
    "text": Score("clip", text),
    "image": Score("clip", functools.partial(similarity, "clip")),
    "style": Score("autoencoder", functools.partial(gram_similarity, "autoencoder"), "style score"),
    "leakage": Score("clip", leakage),
    "csd": Score("csd", functools.partial(similarity, "csd"), "CSD style similarity"),
    "csd_csls": Score("csd", functools.partial(corrected_similarity, "csd"), "CSD style similarity, CSLS-corrected"),
    "dino": Score("dino", functools.partial(similarity, "dino"), "DINOv2 image similarity"),
    "vgg": Score("vgg", functools.partial(gram_similarity, "vgg"), "VGG-16 style score"),
    "lpips": Score("lpips", content_distance),
}


def scores_by(networks: Networks | Iterable[str]) -> dict[str, Score]:
    """The scores that these networks can compute, by name."""
    return {name: score for name, score in SCORES.items() if score.needs in networks}
