"""The formulas of the scores (Ahn et al. 2024, section 4.1), each from 0 to 100.

Text and image score are cosines of CLIP features. The style score compares Gram matrices of five patches. Its features
come from the autoencoder of the Stable Diffusion at hand, where the paper uses VGG-16.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from scipy import ndimage

from dreamstyler_jax.runtime.batches import BATCH_ROWS, in_batches
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.networks import Networks
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion

SCORE_NAMES = ("text", "image", "style", "leakage")
PATCHES = 5  # of each picture: its four corners and its centre
PATCH_SHARE = 7 / 16  # of the shorter side: 224 of 512 pixels
MAX_PATCH_PIXELS = 1 << 20  # in one batch: the autoencoder of Stable Diffusion then takes a few gigabytes
MAX_LOGIT = 80  # beyond it a probability is 0 or 1


def cosine_score(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The text score, or the image score: ``max(100 cos, 0)`` of features [..., P] of unit length, row by row."""
    return np.maximum(100 * (a * b).sum(-1), 0)


def leakage_score(
    pictures: np.ndarray, prompts: np.ndarray, training_prompts: np.ndarray, logit_scale: float
) -> np.ndarray:
    """How much pictures look like the style's training picture instead of what their prompts ask for: float[N].

    100 times the probability that CLIP, given both descriptions, chooses the training picture's; 50 if they are equal.

    Args:
        pictures: unit features [N, P] of the pictures.
        prompts: unit features [N, P] of their prompts without the style.
        training_prompts: unit features [N, P] of the training prompts without the style.
        logit_scale: `Clip.logit_scale`.
    """
    logits = logit_scale * ((pictures * prompts).sum(-1) - (pictures * training_prompts).sum(-1))
    return 100 / (1 + np.exp(np.clip(logits, -MAX_LOGIT, MAX_LOGIT)))


class Grams(NamedTuple):
    """Gram matrices of N pictures.

    Attributes:
        levels: float32[N, 5, C, C] for each level of the autoencoder's encoder, for five patches of each picture.
    """

    levels: tuple[np.ndarray, ...]

    def rows(self, index: Any) -> "Grams":
        """The Gram matrices of the pictures that ``index``, any index of NumPy's, selects."""
        return Grams(tuple(level[index] for level in self.levels))


def grams(model: StableDiffusion, pictures: np.ndarray, max_patch_pixels: int = MAX_PATCH_PIXELS) -> Grams:
    """Computes Gram matrices of the autoencoder's features.

    Args:
        pictures: float[N, H, W, 3] in [-1, 1].
        max_patch_pixels: as in `pictures_per_batch`.

    Raises:
        UserError: the pictures are smaller than one latent.
    """
    pictures, factor = np.asarray(pictures, np.float32), model.networks.vae_config.downsampling
    height, width = pictures.shape[1:3]
    shorter = min(height, width)
    if shorter < factor:
        raise UserError(
            f"pictures of {width} x {height} pixels are too small for this model, which needs at least {factor} x "
            f"{factor}: score larger pictures"
        )
    side = max(1, round(shorter * PATCH_SHARE / factor)) * factor
    function = functools.partial(_gram_matrices, model.networks, side, model.params["vae"])
    return Grams(in_batches(function, pictures, pictures_per_batch(side, max_patch_pixels)))


def pictures_per_batch(side: int, max_patch_pixels: int = MAX_PATCH_PIXELS) -> int:
    """How many pictures, in patches of ``side`` x ``side`` pixels, the autoencoder takes at once: at least one.

    Args:
        max_patch_pixels: the largest number of pixels in all patches of a batch.
    """
    return min(BATCH_ROWS, max(1, max_patch_pixels // (PATCHES * side**2)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gram_matrices(networks: Networks, side: int, vae_params: Any, pictures: Array) -> tuple[Array, ...]:
    patches = _patches(pictures, side)
    encoder = nnx.merge(networks.vae, vae_params).encoder
    levels = []
    for features in encoder.levels(patches.reshape(-1, *patches.shape[2:])):
        flat = features.reshape(*patches.shape[:2], -1, features.shape[-1]).astype(jnp.float32)
        levels.append(jnp.einsum("bpnc,bpnd->bpcd", flat, flat) / flat.shape[2])
    return tuple(levels)


def _patches(pictures: Array, side: int) -> Array:
    """The four corners and the centre of each picture: [N, 5, side, side, 3]."""
    bottom, right = (extent - side for extent in pictures.shape[1:3])
    origins = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    return jnp.stack([pictures[:, y : y + side, x : x + side] for y, x in origins], 1)


def style_score(a: Grams, b: Grams) -> np.ndarray:
    """How alike Gram matrices are, pictures of ``a`` against pictures of ``b``, row by row: float64[N].

    ``100 (1 - |A - B| / (|A| + |B|))`` in Frobenius norms, averaged over patches and levels: 100 if they are equal.
    Gram matrices have no negative eigenvalues, so two of equal norm without a common direction score 29.3, which is
    ``100 (1 - 1 / sqrt(2))``; the score approaches 0 only if one is much larger than the other.
    """
    distances = []
    for x, y in zip(a.levels, b.levels, strict=True):
        x, y = (np.asarray(level, np.float64).reshape(*level.shape[:2], -1) for level in (x, y))
        sizes = np.linalg.norm(x, axis=-1) + np.linalg.norm(y, axis=-1)
        distances.append((np.linalg.norm(x - y, axis=-1) / sizes).mean(-1))
    return 100 * (1 - np.mean(distances, 0))


def structure_score(pictures: np.ndarray, contents: np.ndarray) -> np.ndarray:
    """How well pictures keep the outlines of the content pictures that they repaint: float64[N].

    100 times the correlation of the gradient magnitudes of both luminances, or 0 if it is negative. The luminance is
    smoothed over a fortieth of the shorter side, so that outlines count more than strokes.

    Args:
        pictures, contents: [N, H, W, 3] of the same size.
    """
    a, b = (_centred_gradients(pictures), _centred_gradients(contents))
    correlation = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
    return 100 * np.maximum(correlation, 0)


def _centred_gradients(pictures: np.ndarray) -> np.ndarray:
    """Gradient magnitudes of the smoothed luminance less their mean in each picture: float64[N, H * W]."""
    luminance = np.asarray(pictures, np.float64).mean(-1)
    sigma = min(luminance.shape[1:]) / 40
    gradients = np.stack([ndimage.gaussian_gradient_magnitude(picture, sigma) for picture in luminance])
    flat = gradients.reshape(len(pictures), -1)
    return flat - flat.mean(1, keepdims=True)
