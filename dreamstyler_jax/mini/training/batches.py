"""Random batches inside a loss function: drawn, split over the devices, cropped, mirrored."""

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


def randomly_cropped(key: Array, pictures: Array, size: int) -> Array:
    """A square piece of ``size`` pixels of each picture [B, H, W, C], from a random place."""
    _, height, width, channels = pictures.shape
    corners = jax.random.randint(key, (len(pictures), 2), 0, jnp.array([height - size, width - size]) + 1)

    def crop(picture: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(picture, (*corner, 0), (size, size, channels))

    return jax.vmap(crop)(pictures, corners)
