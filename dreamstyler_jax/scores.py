"""How well pictures match their prompt, a style's picture, and its style (Ahn et al. 2024, section 4.1).

Text and image score are cosines of CLIP features. The style score compares Gram matrices of five patches; its features
are those of the model's own autoencoder, which every Stable Diffusion has at hand, where the paper takes VGG-16's.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from scipy import stats

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
        return in_batches(functools.partial(_text_features, self.graphdef, self.params), ids)

    def pictures(self, pictures: np.ndarray) -> np.ndarray:
        """Unit features float32[N, P] of pictures [N, H, W, 3] in [-1, 1], resized to the model's own size."""
        mean, deviation = (jnp.asarray(values, jnp.float32) for values in (self.mean, self.deviation))
        embed = functools.partial(_picture_features, self.graphdef, self.size, self.params, mean, deviation)
        return in_batches(embed, pictures)


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


def in_batches(function: Callable[[np.ndarray], Any], rows: np.ndarray) -> Any:
    """``function`` (to an array or several) of all rows, in batches of one shape."""
    results = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        filled = np.concatenate([batch, np.repeat(batch[-1:], BATCH - len(batch), 0)])
        results.append(jax.tree.map(lambda a, n=len(batch): np.asarray(a)[:n], function(filled)))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def cosine_score(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``max(100 cos, 0)`` of unit features [..., P], row by row: the text score, or the image score."""
    return np.maximum(100 * (a * b).sum(-1), 0)


class Grams(NamedTuple):
    """Gram matrices of five patches, one array float32[N, 5, C, C] for each level of the autoencoder's encoder."""

    levels: tuple[np.ndarray, ...]

    def rows(self, index) -> "Grams":
        """Those of some of the pictures."""
        return Grams(tuple(level[index] for level in self.levels))


def grams(model: StableDiffusion, pictures: np.ndarray) -> Grams:
    """The Gram matrices of pictures [N, H, W, 3] in [-1, 1]: of their four corners and their centre."""
    levels = in_batches(functools.partial(_grams, model.networks, model.params["vae"]), pictures)
    return Grams(levels)


@functools.partial(jax.jit, static_argnums=0)
def _grams(networks, vae_params, pictures: Array) -> tuple[Array, ...]:
    patches = _patches(pictures)
    encoder = nnx.merge(networks.vae, vae_params).encoder
    x, levels = encoder.conv_in(patches.reshape(-1, *patches.shape[2:])), []
    for block in encoder.down_blocks:
        for layer in block.resnets:
            x = layer(x)
        flat = x.reshape(*patches.shape[:2], -1, x.shape[-1]).astype(jnp.float32)
        levels.append(jnp.einsum("bpnc,bpnd->bpcd", flat, flat) / flat.shape[2])
        for layer in block.downsamplers:
            x = layer(x)
    return tuple(levels)


def _patches(pictures: Array) -> Array:
    """Four corners and the centre: [N, 5, S, S, 3]."""
    height, width = pictures.shape[1:3]
    side = round(min(height, width) * PATCH / 8) * 8 or min(height, width)
    ends = (0, height - side), (0, width - side)
    corners = [(top, left) for top in ends[0] for left in ends[1]]
    places = [*corners, ((height - side) // 2, (width - side) // 2)]
    return jnp.stack([pictures[:, y : y + side, x : x + side] for y, x in places], 1)


def leakage_score(pictures: np.ndarray, own: np.ndarray, training: np.ndarray) -> np.ndarray:
    """How far pictures look like what the style's picture shows rather than what they were asked for: float[N].

    100 times the probability that CLIP, choosing between the two descriptions, takes the wrong one; at CLIP's own
    temperature of 100 (Radford et al. 2021, section 2.5). Unit features [N, P] of the pictures, of their own prompts
    without the style, and of the training prompt without the style.
    """
    margin = 100 * ((pictures * own).sum(-1) - (pictures * training).sum(-1))
    return 100 / (1 + np.exp(np.clip(margin, -80, 80)))


def style_score(a: Grams, b: Grams) -> np.ndarray:
    """100 for equal Gram matrices, 0 for unrelated ones: float64[N], pictures of ``a`` and ``b`` one to one.

    ``100 (1 - |A - B| / (|A| + |B|))`` in Frobenius norms, averaged over patches and levels.
    """
    distances = []
    for x, y in zip(a.levels, b.levels, strict=True):
        x, y = (np.asarray(level, np.float64).reshape(*level.shape[:2], -1) for level in (x, y))
        sizes = np.linalg.norm(x, axis=-1) + np.linalg.norm(y, axis=-1)
        distances.append((np.linalg.norm(x - y, axis=-1) / sizes).mean(-1))
    return 100 * (1 - np.mean(distances, 0))


class Estimate(NamedTuple):
    """A mean with half the width of its 95 % confidence interval, over ``count`` independent values."""

    mean: float
    margin: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.margin:.2f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's interval of independent values, one per style; no margin (nan) for a single one."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return Estimate(float(values.mean()), float("nan"), len(values))
    deviation = values.std(ddof=1) / np.sqrt(len(values))
    return Estimate(float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * deviation), len(values))
