"""Scoring painted pictures against their prompts and the training data of their styles."""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.evaluation.painted import PaintedPicture, has_subject
from dreamstyler_jax.evaluation.scores import Grams, cosine_score, grams, leakage_score, style_score
from dreamstyler_jax.evaluation.training_data import TrainingData
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.batches import BATCH_ROWS
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion


class Scorer:
    """Scores pictures with a CLIP and the autoencoder of a model.

    The features of all texts and training pictures are computed once.

    Args:
        painted: all pictures that will be scored.
        training_data: of their styles, by `PaintedPicture.style_hashes`.
    """

    def __init__(
        self,
        model: StableDiffusion,
        clip: Clip,
        painted: Iterable[PaintedPicture],
        training_data: Mapping[tuple[str, ...], TrainingData],
    ):
        self._model, self._clip, self._training_data = model, clip, training_data
        texts = [picture.context for picture in painted]
        texts += [context for data in training_data.values() for context in data.contexts]
        texts = list(dict.fromkeys(text for text in texts if text))
        self._text_features = dict(zip(texts, clip.text_features(texts), strict=True)) if texts else {}
        self._training_features = {
            hashes: clip.picture_features([images.to_array(picture) for picture in data.pictures])
            for hashes, data in training_data.items()
        }
        self._training_grams = functools.cache(self._compute_training_grams)

    def _compute_training_grams(self, style_hashes: tuple[str, ...], height: int, width: int) -> Grams:
        """Gram matrices of the training pictures, cropped and scaled to the size of the painted ones."""
        pictures = self._training_data[style_hashes].pictures
        fitted = [images.to_array(images.fit(picture, height, width)) for picture in pictures]
        return grams(self._model, np.stack(fitted))

    def score(self, painted: Sequence[PaintedPicture], pixels: np.ndarray) -> list[dict[str, float]]:
        """The scores of pictures of one size, by the names in `scores.SCORE_NAMES`.

        A score that has no meaning is nan: the text score if the prompt has no words besides the style; the leakage if
        the prompt or the training prompts have no subject, or the same one.

        Args:
            pixels: float32[N, H, W, 3] in [-1, 1].
        """
        _, height, width, _ = pixels.shape
        features, gram_matrices = self._clip.picture_features(pixels), grams(self._model, pixels)
        return [
            {
                "text": self._text_score(picture, feature),
                "image": float(cosine_score(feature, self._training_features[picture.style_hashes]).mean()),
                "style": _mean_style_score(gram_matrices, i, self._training_grams(picture.style_hashes, height, width)),
                "leakage": self._leakage_score(picture, feature),
            }
            for i, (picture, feature) in enumerate(zip(painted, features, strict=True))
        ]

    def _text_score(self, picture: PaintedPicture, feature: np.ndarray) -> float:
        return float(cosine_score(feature, self._text_features[picture.context])) if picture.context else math.nan

    def _leakage_score(self, picture: PaintedPicture, feature: np.ndarray) -> float:
        contexts = [c for c in self._training_data[picture.style_hashes].contexts if c != picture.context]
        if not contexts or not has_subject(picture.prompt):
            return math.nan
        prompt_feature = self._text_features[picture.context]
        training_features = np.stack([self._text_features[context] for context in contexts])
        return float(leakage_score(feature, prompt_feature, training_features, self._clip.logit_scale).mean())


def _mean_style_score(painted: Grams, row: int, training: Grams) -> float:
    """The style score of one painted picture against each training picture, averaged."""
    repeated = painted.rows(np.full(len(training.levels[0]), row))
    return float(style_score(repeated, training).mean())


def score_all(scorer: Scorer, painted: Sequence[PaintedPicture]) -> list[dict[str, float]]:
    """The scores of all pictures in their order; only one batch of pictures is in memory at a time."""
    results: list[dict[str, float]] = []
    # disable=None: no progress bar unless stderr is a terminal.
    with tqdm(total=len(painted), desc="scoring", unit="picture", disable=None) as bar:
        for batch, pixels in _batches(painted):
            results += scorer.score(batch, pixels)
            bar.update(len(batch))
    return results


def _batches(painted: Iterable[PaintedPicture]) -> Iterator[tuple[list[PaintedPicture], np.ndarray]]:
    """Consecutive pictures of one size, with their pixels float32[N, H, W, 3] in [-1, 1]."""
    loaded = ((picture, images.to_array(images.load(picture.path))) for picture in painted)
    for _, group in itertools.groupby(loaded, lambda pair: pair[1].shape):
        while pairs := list(itertools.islice(group, BATCH_ROWS)):
            yield [picture for picture, _ in pairs], np.stack([pixels for _, pixels in pairs])
