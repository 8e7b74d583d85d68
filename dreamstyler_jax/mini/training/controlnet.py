"""Training of the ControlNet, on control maps of the scenes themselves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from dreamstyler_jax.edges import canny
from dreamstyler_jax.mini.training.trainer import Loss, Part, Plan, in_dtype, trained
from dreamstyler_jax.mini.training.unet import LatentPictures, draw_noisy
from dreamstyler_jax.mini.world import data, painters, scenes
from dreamstyler_jax.runtime.progress import progress
from dreamstyler_jax.stable_diffusion.controlnet import ControlNetConfig, ControlNetModel
from dreamstyler_jax.stable_diffusion.weights import Params

DROPOUT = 0.5  # share of captions left out, so that it learns to read the map (Zhang et al. 2023, section 3.3)


class ControlledPictures(NamedTuple):
    """What the ControlNet learns from."""

    latents: LatentPictures
    maps: Array | np.ndarray  # uint8[2, N, 128, 128]
    unet_params: Params  # the UNet's, frozen


def train_controlnet(
    plan: Plan, config: ControlNetConfig, latents: LatentPictures, maps: np.ndarray, unet: Part, text: Part
) -> Part:
    """Trains one ControlNet for both kinds of control maps; the UNet and the text encoder stay frozen.

    Args:
        plan: how to train.
        config: sizes, those of the UNet's encoder.
        latents: the UNet's training data.
        maps: uint8[2, N, 128, 128] of the first N pictures, as `control_maps` returns them.
        unet: the trained UNet.
        text: the text encoder.
    """
    part = initial_controlnet(config, unet, plan.seed)
    loss = controlnet_loss(part.graphdef, unet.graphdef, text.graphdef, plan.batch_size)
    count = maps.shape[1]
    latents = latents._replace(moments=latents.moments[:count], captions=latents.captions[:count])
    pictures = ControlledPictures(latents, maps, in_dtype(unet.params, plan.dtype))
    return trained(plan, part, loss, pictures)


def initial_controlnet(config: ControlNetConfig, unet: Part, seed: int) -> Part:
    """A copy of the UNet's encoder whose output layers are zero, so that it has no effect yet.

    Zhang et al. 2023, section 3.1.
    """
    part = Part.untrained(ControlNetModel, config, seed)
    params = {**part.params, **{name: unet.params[name] for name in part.params if name in unet.params}}
    for name in ("controlnet_down_blocks", "controlnet_mid_block"):
        params[name] = jax.tree.map(jnp.zeros_like, params[name])
    embedding = params["controlnet_cond_embedding"]
    zeros = jax.tree.map(jnp.zeros_like, embedding["conv_out"])
    return part._replace(params={**params, "controlnet_cond_embedding": {**embedding, "conv_out": zeros}})


def controlnet_loss(
    graphdef: nnx.GraphDef, unet_graphdef: nnx.GraphDef, text_graphdef: nnx.GraphDef, batch_size: int
) -> Loss:
    """The UNet's loss with the ControlNet's residuals; each sample has a depth map or edges, drawn at random."""

    def loss(params, pictures: ControlledPictures, key):
        batch = draw_noisy(pictures.latents, key, text_graphdef, batch_size, DROPOUT)
        kind = jax.random.randint(jax.random.fold_in(key, 6), (batch_size,), 0, len(pictures.maps))
        maps = pictures.maps[kind, batch.index].astype(jnp.float32)[..., None] / 255
        controlnet = nnx.merge(graphdef, params)
        hint = controlnet.hint(jnp.repeat(maps, 3, axis=-1))
        residuals = controlnet(batch.noisy, batch.timesteps, batch.text, hint)
        unet = nnx.merge(unet_graphdef, pictures.unet_params)
        prediction = unet(batch.noisy, batch.timesteps, batch.text, residuals)
        return ((prediction.astype(jnp.float32) - batch.target) ** 2).mean()

    return loss


def control_maps(count: int, seed: int, chunk_size: int = data.CHUNK_SIZE) -> np.ndarray:
    """The control maps of the training pictures; arguments as in `data.prepare`.

    Returns:
        uint8[2, count, 128, 128]: depth, white where near, and Canny's edges of the unpainted scenes.
    """
    chunks = range(-(-count // chunk_size))
    bar = progress(chunks, "control maps", len(chunks), unit="chunk")
    maps = [scene_maps(data.chunk_scenes(seed, chunk, chunk_size)) for chunk in bar]
    return np.concatenate(maps, axis=1)[:, :count]


def scene_maps(scene: scenes.Scene) -> np.ndarray:
    """The control maps uint8[2, B, 128, 128] of a batch of scenes: depth, and edges."""
    colour, depth = (np.asarray(array) for array in _rasters(scene))
    return np.stack([depth, np.stack([canny(picture) for picture in colour])])


@jax.jit
def _rasters(scene: scenes.Scene) -> tuple[Array, Array]:
    """Colours uint8[B, 128, 128, 3] and nearness uint8[B, 128, 128]."""
    colour, depth = jax.vmap(lambda one: scenes.raster(one, painters.SIZE))(scene)
    return jnp.round(colour * 255).astype(jnp.uint8), jnp.round((1 - depth) * 255).astype(jnp.uint8)
