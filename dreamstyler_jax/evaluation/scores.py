"""The formulas of the scores, most of them from 0 to 100 (Ahn et al. 2024, section 4.1).

Text and image score are cosines of CLIP features. The style score compares Gram matrices of five patches. Its features
come from the autoencoder of the Stable Diffusion at hand; the paper uses VGG-16, see `vgg`.
"""

import functools
from collections.abc import Callable, Iterable
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

PATCHES = 5  # of each picture: its four corners and its centre
PATCH_SHARE = 7 / 16  # of the shorter side: 224 of 512 pixels
MAX_PATCH_PIXELS = 1 << 20  # in one batch: the autoencoder of Stable Diffusion then takes a few gigabytes
NEIGHBOURS = 15  # as in Frochte 2026
MAX_LOGIT = 80  # beyond it a probability is 0 or 1


def cosine_score(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The text score, or the image score: ``max(100 cos, 0)`` of features [..., P] of unit length, row by row."""
    return np.maximum(100 * (a * b).sum(-1), 0)


def corrected_score(picture: np.ndarray, training: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Cosines with training pictures less what is owed to crowded neighbourhoods: float[M], from -200 to 200.

    ``100 (2 cos(x, y) - r(x) - r(y))``, cross-domain similarity local scaling (Conneau et al. 2018), where r is the
    mean cosine of a picture with its 15 nearest pictures in a gallery, itself not counted. Frochte 2026 (arXiv
    2605.09030) proposes it for CSD, whose cosines some pictures have with everything. The gallery here are the training
    pictures of all styles, so a picture's score does not depend on what else was painted.

    Args:
        picture: its unit features [P].
        training: unit features [M, P] of the training pictures of its style, which are in the gallery.
        gallery: unit features [S, P] of distinct pictures.

    Returns:
        nan if the gallery holds fewer than two pictures.
    """
    neighbours = min(NEIGHBOURS, len(gallery) - 1)
    if not neighbours:
        return np.full(len(training), np.nan)
    own = np.sort(gallery @ picture)[-neighbours:].mean()
    others = np.sort(training @ gallery.T)[:, -neighbours - 1 : -1].mean(1)  # the last is the picture itself
    return 100 * (2 * (training @ picture) - own - others)


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
    check_size("this model", pictures, factor)
    side = max(1, round(min(pictures.shape[1:3]) * PATCH_SHARE / factor)) * factor
    function = functools.partial(_gram_matrices, model.networks, side, model.params["vae"])
    return Grams(in_batches(function, pictures, pictures_per_batch(side, max_patch_pixels)))


def check_size(network: str, pictures: np.ndarray, smallest: int) -> None:
    """Raises a UserError if a side of pictures [N, H, W, 3] is below ``smallest``, which is what a network needs."""
    height, width = pictures.shape[1:3]
    if min(height, width) < smallest:
        raise UserError(
            f"pictures of {width} x {height} pixels are too small for {network}, which needs at least {smallest} x "
            f"{smallest}: score larger pictures"
        )


def pictures_per_batch(side: int, max_patch_pixels: int = MAX_PATCH_PIXELS) -> int:
    """How many pictures, in patches of ``side`` x ``side`` pixels, the autoencoder takes at once: at least one.

    Args:
        max_patch_pixels: the largest number of pixels in all patches of a batch.
    """
    return min(BATCH_ROWS, max(1, max_patch_pixels // (PATCHES * side**2)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gram_matrices(networks: Networks, side: int, vae_params: Any, pictures: Array) -> tuple[Array, ...]:
    return patch_grams(nnx.merge(networks.vae, vae_params).encoder.levels, side, pictures)


def patch_grams(levels: Callable[[Array], Iterable[Array]], side: int, pictures: Array) -> tuple[Array, ...]:
    """Gram matrices of five patches of pictures, of the levels of a network.

    Args:
        levels: maps pictures [B, side, side, 3] to features [B, h, w, C] at several levels.
        side: of the patches, in pixels.
        pictures: [N, H, W, 3] in [-1, 1].

    Returns:
        float32[N, 5, C, C] for each level.
    """
    patches = _patches(pictures, side)
    grams = []
    for features in levels(patches.reshape(-1, *patches.shape[2:])):
        flat = features.reshape(*patches.shape[:2], -1, features.shape[-1]).astype(jnp.float32)
        grams.append(jnp.einsum("bpnc,bpnd->bpcd", flat, flat) / flat.shape[2])
    return tuple(grams)


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
