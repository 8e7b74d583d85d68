"""Random batches inside a loss function: drawn, split over the devices, mirrored."""

import jax
import jax.numpy as jnp
from jax import Array

from dreamstyler_jax.runtime.devices import placed


def split_over_devices(batch: Array) -> Array:
    """The same batch, split over the devices if it divides evenly."""
    if len(batch) % len(jax.devices()):
        return batch
    return jax.lax.with_sharding_constraint(batch, placed("batch"))


def random_indices(key: Array, batch_size: int, count: int) -> Array:
    """Uniform indices int32[batch_size] into ``count`` rows, split over the devices."""
    return split_over_devices(jax.random.randint(key, (batch_size,), 0, count))


def randomly_mirrored(key: Array, pictures: Array) -> Array:
    """Pictures [B, H, W, C], each mirrored left to right with probability 1/2."""
    flip = jax.random.bernoulli(key, 0.5, (pictures.shape[0], 1, 1, 1))
    return jnp.where(flip, pictures[:, :, ::-1], pictures)
