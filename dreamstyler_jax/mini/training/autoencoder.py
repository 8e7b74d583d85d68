"""Training of the autoencoder, and the latents of the training pictures that it gives."""

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from dreamstyler_jax.mini.judge import Judge
from dreamstyler_jax.mini.training.batches import random_indices, randomly_cropped, randomly_mirrored
from dreamstyler_jax.mini.training.trainer import Loss, Part, Plan, in_dtype, trained
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.progress import progress
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKL, AutoencoderKLConfig
from dreamstyler_jax.stable_diffusion.weights import Params

CROP = 64  # pixels: the layers are convolutions, which learn as much from more, smaller pieces at a quarter of the cost
ENCODE_BATCH = 100  # pictures
PERCEPTUAL_WEIGHT = 0.2
SCALE_PICTURES = 2000  # pictures whose latents decide the scale


class CriticisedPictures(NamedTuple):
    """What the autoencoder learns from."""

    pixels: Array | np.ndarray  # uint8[N, 128, 128, 3]
    critic_params: Params  # the critic's, frozen


def train_autoencoder(plan: Plan, config: AutoencoderKLConfig, pixels: np.ndarray, critic: Part) -> Part:
    """Trains the autoencoder.

    Args:
        plan: how to train.
        config: sizes.
        pixels: uint8[N, 128, 128, 3].
        critic: a judge that compares pictures with their reconstructions. It is not the one that later judges the
            embedded model, which would then be asked what the model was trained to please it with.
    """
    part = Part.untrained(AutoencoderKL, config, plan.seed)
    loss = autoencoder_loss(part.graphdef, critic.graphdef, plan.batch_size)
    data = CriticisedPictures(pixels, in_dtype(critic.params, plan.dtype))
    return trained(plan, part, loss, data)


def autoencoder_loss(graphdef: nnx.GraphDef, critic_graphdef: nnx.GraphDef, batch_size: int) -> Loss:
    """Mean absolute and squared error, the difference that the critic sees, and a small Kullback-Leibler term."""

    def loss(params, data: CriticisedPictures, key):
        k_index, k_crop, k_flip, k_noise = jax.random.split(key, 4)
        index = random_indices(k_index, batch_size, len(data.pixels))
        x = randomly_mirrored(k_flip, images.to_unit(randomly_cropped(k_crop, data.pixels[index], CROP)))
        autoencoder = nnx.merge(graphdef, params)
        mean, logvar = (moments.astype(jnp.float32) for moments in autoencoder.encode(x))
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(k_noise, mean.shape)
        decoded = autoencoder.decode(z).astype(jnp.float32)
        error = decoded - x
        divergence = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).mean()
        seen = perceptual_distance(nnx.merge(critic_graphdef, data.critic_params), x, decoded)
        return jnp.abs(error).mean() + 2 * (error**2).mean() + PERCEPTUAL_WEIGHT * seen + 1e-4 * divergence

    return loss


def perceptual_distance(critic: Judge, x: Array, y: Array) -> Array:
    """How different two batches of pictures look to a critic, from 0 to 4 for each of its resolutions.

    The squared distance of its features of unit norm at each place (Zhang et al. 2018, Eq. 1, with equal weights).
    """

    def unit(features: Array) -> Array:
        return features / jnp.sqrt((features**2).sum(-1, keepdims=True) + 1e-6)

    maps = zip(*(map(jnp.float32, critic.feature_maps(pictures)) for pictures in (x, y)), strict=True)
    return jnp.stack([((unit(a) - unit(b)) ** 2).sum(-1).mean() for a, b in maps]).sum()


def latent_moments(folder: Path, autoencoder: Part, pixels: np.ndarray) -> np.ndarray:
    """Mean and deviation of every picture's latents, unscaled: float16[N, 2, h, w, c].

    Args:
        folder: keeps them, in a file named after the digest of the autoencoder's weights.
        autoencoder: the trained autoencoder.
        pixels: uint8[N, 128, 128, 3].
    """
    leaves = jax.tree.leaves(autoencoder.params)
    digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()
    path = folder / f"{digest[:16]}.npy"
    if not path.exists():
        buffer = io.BytesIO()
        np.save(buffer, _encode(autoencoder, pixels))
        write_atomic(path, buffer.getvalue())
    return np.load(path)


def _encode(autoencoder: Part, pixels: np.ndarray) -> np.ndarray:
    @jax.jit
    def encode(params, pixels: Array) -> Array:
        mean, logvar = nnx.merge(autoencoder.graphdef, params).encode(images.to_unit(pixels))
        return jnp.stack([mean, jnp.exp(0.5 * logvar)], 1).astype(jnp.float16)

    batches = [pixels[i : i + ENCODE_BATCH] for i in range(0, len(pixels), ENCODE_BATCH)]
    bar = progress(batches, "latents", len(batches), unit="batch")
    return np.concatenate([np.asarray(encode(autoencoder.params, batch)) for batch in bar])


def latent_scale(moments: np.ndarray) -> float:
    """The factor that gives the latents unit deviation, from the first 2000 pictures of `latent_moments`."""
    return float(1 / moments[:SCALE_PICTURES, 0].astype(np.float32).std())
