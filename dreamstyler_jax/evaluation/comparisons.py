"""What scores compare: what networks see in a batch of painted pictures, in training pictures and in texts."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dreamstyler_jax.evaluation.painted import PaintedPicture
from dreamstyler_jax.evaluation.scores import Grams, grams
from dreamstyler_jax.evaluation.training_data import TrainingData
from dreamstyler_jax.runtime import images
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion

Hashes = tuple[str, ...]  # `PaintedPicture.style_hashes`
Networks = Mapping[str, Any]  # by the names in `score_table.SCORES`, such as "clip"


class AutoencoderGrams(NamedTuple):
    """Computes Gram matrices with the autoencoder of a model."""

    model: StableDiffusion

    def grams(self, pictures: np.ndarray) -> Grams:
        """Gram matrices of pictures float[N, H, W, 3] in [-1, 1]."""
        return grams(self.model, pictures)


class References:
    """What networks see in training pictures and texts; each is computed once.

    Args:
        networks: by name.
        painted: all pictures that will be scored.
        training_data: of their styles.
    """

    def __init__(
        self, networks: Networks, painted: Iterable[PaintedPicture], training_data: Mapping[Hashes, TrainingData]
    ):
        self.networks, self.training_data = networks, training_data
        texts = [picture.context for picture in painted]
        texts += [context for data in training_data.values() for context in data.contexts]
        texts = list(dict.fromkeys(text for text in texts if text))
        features = networks["clip"].text_features(texts) if texts else []
        self.text_features: dict[str, np.ndarray] = dict(zip(texts, features, strict=True))
        self.features = functools.cache(self._features)
        self.grams = functools.cache(self._grams)
        self.gallery = functools.cache(self._gallery)

    def _features(self, network: str, hashes: Hashes) -> np.ndarray:
        """Unit features [M, P] of the training pictures of a combination of styles."""
        pictures = [images.to_array(picture) for picture in self.training_data[hashes].pictures]
        return self.networks[network].picture_features(pictures)

    def _grams(self, network: str, hashes: Hashes, height: int, width: int) -> Grams:
        """Gram matrices of the training pictures, cropped and scaled to the size of the painted ones."""
        return self.networks[network].grams(fitted_pictures(self.training_data[hashes], height, width))

    def _gallery(self, network: str) -> np.ndarray:
        """Unit features [S, P] of the distinct training pictures of all styles."""
        distinct = {}
        for hashes, data in self.training_data.items():
            for picture, feature in zip(data.pictures, self.features(network, hashes), strict=True):
                distinct.setdefault((picture.size, picture.tobytes()), feature)
        return np.stack(list(distinct.values()))


class Batch:
    """Painted pictures of one size; each network looks at them once, and only if a score needs it.

    Attributes:
        painted: N pictures.
        pixels: float32[N, H, W, 3] in [-1, 1].
        references: what they are compared with.
    """

    def __init__(self, painted: Sequence[PaintedPicture], pixels: np.ndarray, references: References):
        self.painted, self.pixels, self.references = painted, pixels, references
        networks = references.networks
        self.features = functools.cache(lambda network: networks[network].picture_features(pixels))
        self.grams = functools.cache(lambda network: networks[network].grams(pixels))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]


def fitted_pictures(data: TrainingData, height: int, width: int) -> np.ndarray:
    """Training pictures, cropped and scaled to the size of painted ones: float32[M, height, width, 3] in [-1, 1]."""
    return np.stack([images.to_array(images.fit(picture, height, width)) for picture in data.pictures])
