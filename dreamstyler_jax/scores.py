"""How well pictures match their prompt, a style's picture, and its style (Ahn et al. 2024, section 4.1).

Text and image score are cosines of CLIP features. The style score compares Gram matrices of five patches; its features
are those of the model's own autoencoder, which every Stable Diffusion has at hand, where the paper takes VGG-16's.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from dreamstyler_jax.errors import UserError
from dreamstyler_jax.models.clip import CLIPModel
from dreamstyler_jax.pipeline import StableDiffusion
from dreamstyler_jax.tokenizer import Tokenizer
from dreamstyler_jax.weights import load_model

BATCH = 32
OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PATCH = 7 / 16  # side of a patch over that of the picture: 224 of 512 pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP with what its pictures and texts have to go through first.

    Attributes:
      graphdef, params: of `CLIPModel`.
      mean, deviation: of its training pictures in [0, 1], per channel.
    """

    graphdef: nnx.GraphDef
    params: Any
    tokenizer: Tokenizer
    size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads a CLIP folder as ``transformers`` saves it: model, tokenizer and, if it is there, the preprocessor.

        Raises:
          UserError: no such folder, or one of its files missing or damaged.
        """
        folder = Path(folder)
        if not (folder / "config.json").exists():
            raise UserError(f"{folder} is not a CLIP model: it has no config.json")
        graphdef, params = load_model(CLIPModel, folder)
        settings: dict[str, Any] = {}
        if (preprocessor := folder / "preprocessor_config.json").exists():
            settings = json.loads(preprocessor.read_text(encoding="utf-8"))
        config = CLIPModel.config_class.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        return cls(
            graphdef,
            params,
            Tokenizer.from_folder(folder),
            config.vision_config.image_size,
            tuple(settings.get("image_mean", OPENAI_MEAN)),
            tuple(settings.get("image_std", OPENAI_STD)),
        )

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit features float32[N, P] of texts; those beyond the window are cut."""
        ids = np.asarray(self.tokenizer(list(texts)))
        return _in_batches(functools.partial(_text_features, self.graphdef, self.params), ids)

    def pictures(self, pictures: np.ndarray) -> np.ndarray:
        """Unit features float32[N, P] of pictures [N, H, W, 3] in [-1, 1], resized to the model's own size."""
        mean, deviation = (jnp.asarray(values, jnp.float32) for values in (self.mean, self.deviation))
        embed = functools.partial(_picture_features, self.graphdef, self.size, self.params, mean, deviation)
        return _in_batches(embed, pictures)


@functools.partial(jax.jit, static_argnums=0)
def _text_features(graphdef, params, ids: Array) -> Array:
    return _unit(nnx.merge(graphdef, params).get_text_features(ids))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _picture_features(graphdef, size, params, mean, deviation, pictures: Array) -> Array:
    shape = (pictures.shape[0], size, size, 3)
    pictures = pictures if pictures.shape == shape else jax.image.resize(pictures, shape, "cubic")
    normalised = ((jnp.clip(pictures, -1, 1) + 1) / 2 - mean) / deviation
    return _unit(nnx.merge(graphdef, params).get_image_features(normalised))


def _unit(features: Array) -> Array:
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


def _in_batches(function, rows: np.ndarray) -> np.ndarray:
    """``function`` of all rows, in batches of one shape."""
    results = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        filled = np.concatenate([batch, np.repeat(batch[-1:], BATCH - len(batch), 0)])
        results.append(np.asarray(function(filled))[: len(batch)])
    return np.concatenate(results)


def cosine_score(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``max(100 cos, 0)`` of unit features [..., P], row by row: the text score, or the image score."""
    return np.maximum(100 * (a * b).sum(-1), 0)


class Grams(NamedTuple):
    """Gram matrices of five patches, one array float32[N, 5, C, C] for each layer of the autoencoder's encoder."""

    layers: tuple[np.ndarray, ...]

    def __getitem__(self, rows) -> "Grams":
        return Grams(tuple(layer[rows] for layer in self.layers))


def grams(model: StableDiffusion, pictures: np.ndarray) -> Grams:
    """The Gram matrices of pictures [N, H, W, 3] in [-1, 1]: of their four corners and their centre."""
    compute = functools.partial(_grams, model.networks, model.params)
    batches = [compute(pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH)]
    return Grams(tuple(np.concatenate(parts) for parts in zip(*batches, strict=True)))
