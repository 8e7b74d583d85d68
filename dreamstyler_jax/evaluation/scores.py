"""How well pictures match their prompt, a style's picture, and its style (Ahn et al. 2024, section 4.1).

Text and image score are cosines of CLIP features. The style score compares Gram matrices of five patches; its features
are those of the model's own autoencoder, which every Stable Diffusion has at hand, where the paper takes VGG-16's.

Pictures are float32[height, width, 3] in [-1, 1].
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
from PIL import Image
from scipy import ndimage, stats

from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.clip import CLIPModel
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.weights import load_model

BATCH = 32
PATCH_PIXELS = 1 << 20  # in one batch of patches: some gigabytes in the autoencoder of Stable Diffusion
OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PATCH = 7 / 16  # side of a patch over that of the picture: 224 of 512 pixels


@dataclasses.dataclass(frozen=True)
class Preprocessor:
    """What a picture goes through before CLIP sees it, as ``transformers``' CLIPImageProcessor does it with Pillow.

    Attributes:
      shortest: pixels to which the shorter side is resized.
      size: side in pixels of the square cut from the middle of that, the network's own.
      resample: number of Pillow's filter, 3 for bicubic.
      mean, deviation: of the training pictures in [0, 1], per channel.
    """

    shortest: int
    size: int
    resample: int = Image.Resampling.BICUBIC
    mean: tuple[float, ...] = OPENAI_MEAN
    deviation: tuple[float, ...] = OPENAI_STD

    @classmethod
    def load(cls, folder: Path, size: int) -> Self:
        """Reads ``preprocessor_config.json``, or the ``processor_config.json`` that transformers 5 writes in its place.

        Args:
          size: side of the network's pictures in pixels, which holds where the file says nothing.

        Raises:
          UserError: none of them is there, it cannot be read, or it asks for something else than CLIP's preprocessing.
        """
        names = ("preprocessor_config.json", "processor_config.json")
        file = next((folder / name for name in names if (folder / name).is_file()), None)
        if file is None:
            raise UserError(f"{folder} is not a whole CLIP: it lacks {names[0]}")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            content = content.get("image_processor", content)
            shortest, crop = content.get("size", size), content.get("crop_size", size)
            shortest = shortest.get("shortest_edge", 0) if isinstance(shortest, dict) else int(shortest)
            crop = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
            steps = all(content.get(f"do_{step}", True) for step in ("resize", "center_crop", "rescale", "normalize"))
            mean = tuple(map(float, content.get("image_mean", OPENAI_MEAN)))
            deviation = tuple(map(float, content.get("image_std", OPENAI_STD)))
            resample = Image.Resampling(content.get("resample", cls.resample))
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file} is not the preprocessing of a CLIP, or damaged: {error}") from error
        if not steps or crop != (size, size) or shortest < size:
            raise UserError(f"{file} does not make pictures into {size} x {size} pixels by resizing and cropping them")
        return cls(shortest, size, resample, mean, deviation)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Resizes and crops float[H, W, 3] in [-1, 1] to float32[size, size, 3] in [-1, 1], not yet normalised.

        Other sizes than the network's own are rounded to 8 bits on the way, as Pillow works with these.
        """
        if picture.shape == (self.size, self.size, 3) and self.shortest == self.size:
            return np.clip(picture, -1, 1, dtype=np.float32)
        height, width = picture.shape[:2]
        scaled_width, scaled_height = (int(self.shortest * side / min(height, width)) for side in (width, height))
        resized = images.to_image(picture).resize((scaled_width, scaled_height), self.resample)
        left, top = (scaled_width - self.size) // 2, (scaled_height - self.size) // 2
        return images.to_array(resized.crop((left, top, left + self.size, top + self.size)))


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP with what its pictures and texts have to go through first.

    Attributes:
      graphdef, params: of `CLIPModel`.
    """

    graphdef: nnx.GraphDef
    params: Any
    tokenizer: Tokenizer
    preprocessor: Preprocessor

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads a CLIP folder as ``transformers`` saves CLIPModel and CLIPProcessor, or as the hub has it.

        Raises:
          UserError: no such folder, or one of its files missing or damaged.
        """
        folder = Path(folder)
        if not (folder / "config.json").exists():
            raise UserError(f"{folder} is not a CLIP model: it has no config.json")
        graphdef, params = load_model(CLIPModel, folder)
        config = CLIPModel.config_class.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        tokenizer, text = Tokenizer.from_folder(folder), config.text_config
        if tokenizer.max_length > text.max_position_embeddings or tokenizer.vocab_size > text.vocab_size:
            raise UserError(
                f"{folder}: the tokenizer's {tokenizer.max_length} positions and {tokenizer.vocab_size} tokens are "
                f"more than the {text.max_position_embeddings} and {text.vocab_size} of the model"
            )
        return cls(graphdef, params, tokenizer, Preprocessor.load(folder, config.vision_config.image_size))

    @property
    def scale(self) -> float:
        """What CLIP multiplies cosines with to get logits, the inverse of its temperature: 100 in OpenAI's."""
        return float(np.exp(np.float32(self.params["logit_scale"])))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit features float32[N, P] of texts; those beyond the window are cut."""
        ids = np.asarray(self.tokenizer(list(texts)))
        return in_batches(functools.partial(_text_features, self.graphdef, self.params), ids)

    def pictures(self, pictures: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Unit features float32[N, P] of pictures [H, W, 3] in [-1, 1], each of any size."""
        prepared = np.stack([self.preprocessor(np.asarray(picture)) for picture in pictures])
        values = (self.preprocessor.mean, self.preprocessor.deviation)
        mean, deviation = (jnp.asarray(value, jnp.float32) for value in values)
        return in_batches(functools.partial(_picture_features, self.graphdef, self.params, mean, deviation), prepared)


@functools.partial(jax.jit, static_argnums=0)
def _text_features(graphdef, params, ids: Array) -> Array:
    return _unit(nnx.merge(graphdef, params).get_text_features(ids))


@functools.partial(jax.jit, static_argnums=0)
def _picture_features(graphdef, params, mean, deviation, pictures: Array) -> Array:
    return _unit(nnx.merge(graphdef, params).get_image_features(((pictures + 1) / 2 - mean) / deviation))


def _unit(features: Array) -> Array:
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


def in_batches(function: Callable[[np.ndarray], Any], rows: np.ndarray, most: int = BATCH) -> Any:
    """``function`` (to an array or several) of all rows, in batches of one shape: ``most`` rows, or a power of two."""
    size = min(most, 1 << (len(rows) - 1).bit_length())
    filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % size, 0)])
    results = [jax.tree.map(np.asarray, function(filled[i : i + size])) for i in range(0, len(rows), size)]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(rows)], *results)


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
    """The Gram matrices of pictures [N, H, W, 3] in [-1, 1]: of their four corners and their centre.

    Raises:
      UserError: the pictures are smaller than what the autoencoder makes into one latent.
    """
    pictures, factor = np.asarray(pictures, np.float32), model.networks.vae_config.downsampling
    short = min(pictures.shape[1:3])
    if short < factor:
        height, width = pictures.shape[1:3]
        raise UserError(
            f"pictures of {width} x {height} pixels are too small for a model of {factor} pixels per latent"
        )
    side = max(1, round(short * PATCH / factor)) * factor
    most = min(BATCH, max(1, PATCH_PIXELS // (5 * side**2)))
    function = functools.partial(_grams, model.networks, side, model.params["vae"])
    return Grams(in_batches(function, pictures, most))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _grams(networks, side, vae_params, pictures: Array) -> tuple[Array, ...]:
    patches = _patches(pictures, side)
    encoder = nnx.merge(networks.vae, vae_params).encoder
    x = patches.reshape(-1, *patches.shape[2:]).astype(encoder.conv_in.kernel.dtype)
    x, levels = encoder.conv_in(x), []
    for block in encoder.down_blocks:
        for layer in block.resnets:
            x = layer(x)
        flat = x.reshape(*patches.shape[:2], -1, x.shape[-1]).astype(jnp.float32)
        levels.append(jnp.einsum("bpnc,bpnd->bpcd", flat, flat) / flat.shape[2])
        for layer in block.downsamplers:
            x = layer(x)
    return tuple(levels)


def _patches(pictures: Array, side: int) -> Array:
    """Four corners and the centre: [N, 5, side, side, 3]."""
    bottom, right = (extent - side for extent in pictures.shape[1:3])
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    return jnp.stack([pictures[:, y : y + side, x : x + side] for y, x in places], 1)


def leakage_score(pictures: np.ndarray, own: np.ndarray, training: np.ndarray, scale: float) -> np.ndarray:
    """How far pictures look like what the style's picture shows rather than what they were asked for: float[N].

    100 times the probability that CLIP, choosing between the two descriptions, takes the wrong one; 50 where they are
    the same.

    Args:
      pictures, own, training: unit features [N, P] of the pictures, of their own prompts without the style, and of the
        training prompt without the style.
      scale: `Clip.scale`.
    """
    margin = scale * ((pictures * own).sum(-1) - (pictures * training).sum(-1))
    return 100 / (1 + np.exp(np.clip(margin, -80, 80)))


def style_score(a: Grams, b: Grams) -> np.ndarray:
    """100 for equal Gram matrices, less the more they differ: float64[N], pictures of ``a`` and ``b`` one to one.

    ``100 (1 - |A - B| / (|A| + |B|))`` in Frobenius norms, averaged over patches and levels. As Gram matrices have no
    negative eigenvalues, those of one size without any common direction still have 29.3, which is
    ``100 (1 - 1 / sqrt(2))``; 0 is approached only where one is much larger than the other.
    """
    distances = []
    for x, y in zip(a.levels, b.levels, strict=True):
        x, y = (np.asarray(level, np.float64).reshape(*level.shape[:2], -1) for level in (x, y))
        sizes = np.linalg.norm(x, axis=-1) + np.linalg.norm(y, axis=-1)
        distances.append((np.linalg.norm(x - y, axis=-1) / sizes).mean(-1))
    return 100 * (1 - np.mean(distances, 0))


def structure_score(pictures: np.ndarray, contents: np.ndarray) -> np.ndarray:
    """100 where pictures change just where their contents do, 0 where that has nothing to do with it: float64[N].

    The correlation, not below 0, of the gradient magnitudes of their luminance, which is smoothed over a fortieth of
    the shorter side so that strokes count less than outlines.
    """
    across = [_changes(np.asarray(some, np.float64).mean(-1)).reshape(len(some), -1) for some in (pictures, contents)]
    a, b = (changes - changes.mean(1, keepdims=True) for changes in across)
    correlation = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
    return 100 * np.maximum(correlation, 0)


def _changes(luminance: np.ndarray) -> np.ndarray:
    """Gradient magnitudes of pictures [N, H, W]."""
    scale = min(luminance.shape[1:]) / 40
    return np.stack([ndimage.gaussian_gradient_magnitude(one, scale) for one in luminance])


class Estimate(NamedTuple):
    """A mean with half the width of its 95 % confidence interval, over ``count`` independent values.

    The margin of a single value is nan, and so is the mean of none.
    """

    mean: float
    margin: float
    count: int

    def __str__(self) -> str:
        if not self.count:
            return "-"
        return f"{self.mean:.2f}" + (f" ± {self.margin:.2f}" if self.count > 1 else "")


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean and Student's interval of independent values, such as one per style; nan where there are too few."""
    values = np.asarray(values, np.float64)
    if not values.size:
        return Estimate(float("nan"), float("nan"), 0)
    if len(values) == 1:
        return Estimate(float(values[0]), float("nan"), 1)
    deviation = values.std(ddof=1) / np.sqrt(len(values))
    return Estimate(float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * deviation), len(values))
