"""Training of the autoencoder, and the latents of the training pictures that it gives."""

import hashlib
import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from dreamstyler_jax.mini.training.batches import random_indices, randomly_mirrored
from dreamstyler_jax.mini.training.trainer import Loss, Part, Plan, fit
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.progress import progress
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKL, AutoencoderKLConfig

ENCODE_BATCH = 100  # pictures
SCALE_PICTURES = 2000  # pictures whose latents decide the scale


def train_autoencoder(plan: Plan, config: AutoencoderKLConfig, pixels: np.ndarray) -> Part:
    """Trains the autoencoder on pictures uint8[N, 64, 64, 3]."""
    part = Part.untrained(AutoencoderKL, config, plan.seed)
    loss = autoencoder_loss(part.graphdef, plan.batch_size)
    return part._replace(params=fit(plan, loss, part.params, jnp.asarray(pixels)))


def autoencoder_loss(graphdef: nnx.GraphDef, batch_size: int) -> Loss:
    """Mean absolute and squared error of the reconstruction, and a small Kullback-Leibler term."""

    def loss(params, pixels, key):
        k_index, k_flip, k_noise = jax.random.split(key, 3)
        index = random_indices(k_index, batch_size, len(pixels))
        x = randomly_mirrored(k_flip, images.to_unit(pixels[index]))
        autoencoder = nnx.merge(graphdef, params)
        mean, logvar = autoencoder.encode(x)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(k_noise, mean.shape)
        error = autoencoder.decode(z) - x
        divergence = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).mean()
        return jnp.abs(error).mean() + 2 * (error**2).mean() + 1e-4 * divergence

    return loss


def latent_moments(folder: Path, autoencoder: Part, pixels: np.ndarray) -> np.ndarray:
    """Mean and deviation of every picture's latents, unscaled: float16[N, 2, h, w, c].

    Args:
        folder: keeps them, in a file named after the digest of the autoencoder's weights.
        autoencoder: the trained autoencoder.
        pixels: uint8[N, 64, 64, 3].
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
