"""Control maps of scenes, known exactly: what the embedded model's ControlNet was trained on."""

import jax
import jax.numpy as jnp
import numpy as np

from dreamstyler_jax import transfer
from dreamstyler_jax.mini.world import scenes

SIZE = 64


@jax.jit
def _rasters(scene: scenes.Scene) -> tuple[jax.Array, jax.Array]:
    colour, depth = jax.vmap(lambda one: scenes.raster(one, SIZE))(scene)
    return jnp.round(colour * 255).astype(jnp.uint8), jnp.round((1 - depth) * 255).astype(jnp.uint8)


def maps(scene: scenes.Scene) -> np.ndarray:
    """The control maps uint8[2, B, 64, 64] of a batch of scenes: depth, white is near; Canny's edges, unpainted."""
    colour, depth = (np.asarray(array) for array in _rasters(scene))
    return np.stack([depth, np.stack([transfer.edges(picture) for picture in colour])])
