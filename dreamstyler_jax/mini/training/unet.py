"""Training of the UNet, and the batches to denoise that the ControlNet's training shares with it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from dreamstyler_jax.mini.training.batches import random_indices, split_over_devices
from dreamstyler_jax.mini.training.tokens import CAPTIONS_PER_PICTURE
from dreamstyler_jax.mini.training.trainer import Loss, Part, Plan, in_dtype, trained
from dreamstyler_jax.stable_diffusion import schedule
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig, UNet2DConditionModel
from dreamstyler_jax.stable_diffusion.weights import Params

NOISE_SCHEDULE = schedule.NoiseSchedule(prediction_type="v_prediction", timestep_spacing="trailing")
DROPOUT = 0.1  # share of captions left out, for classifier-free guidance


class LatentPictures(NamedTuple):
    """What the UNet learns from."""

    moments: Array | np.ndarray  # float16[N, 2, h, w, c], mean and deviation of latents of unit scale
    captions: Array | np.ndarray  # int16[N, CAPTIONS_PER_PICTURE, 77], tokens
    empty: Array | np.ndarray  # int32[1, 77], tokens of the empty prompt
    text_params: Params  # the text encoder's, frozen


class NoisyBatch(NamedTuple):
    """A batch to denoise."""

    index: Array  # int32[B], of the pictures
    noisy: Array  # float32[B, h, w, c], noisy latents
    timesteps: Array  # int32[B]
    text: Array  # float32[B, 77, D], the text encoder's states
    target: Array  # float32[B, h, w, c], what the UNet should predict


def latent_pictures(
    moments: np.ndarray, captions: np.ndarray, tokenizer: Tokenizer, text: Part, dtype: str
) -> LatentPictures:
    """The training data: latents of unit scale, captions as tokens, and the text encoder's weights."""
    return LatentPictures(moments, captions, tokenizer([""]), in_dtype(text.params, dtype))


def train_unet(plan: Plan, config: UNet2DConditionConfig, data: LatentPictures, text: Part) -> Part:
    """Trains the UNet; the text encoder stays frozen."""
    part = Part.untrained(UNet2DConditionModel, config, plan.seed)
    loss = unet_loss(part.graphdef, text.graphdef, plan.batch_size)
    return trained(plan, part, loss, data)


def unet_loss(graphdef: nnx.GraphDef, text_graphdef: nnx.GraphDef, batch_size: int) -> Loss:
    """The mean squared error of the denoiser (Ho et al. 2020, Eq. 14), for v-prediction."""

    def loss(params, data: LatentPictures, key):
        batch = draw_noisy(data, key, text_graphdef, batch_size, DROPOUT)
        prediction = nnx.merge(graphdef, params)(batch.noisy, batch.timesteps, batch.text)
        return ((prediction.astype(jnp.float32) - batch.target) ** 2).mean()

    return loss


def draw_noisy(
    data: LatentPictures, key: Array, text_graphdef: nnx.GraphDef, batch_size: int, dropout: float
) -> NoisyBatch:
    """Draws pictures, one of the captions of each, and stratified uniform timesteps.

    Args:
        data: the training data.
        key: PRNG key of the batch.
        text_graphdef: structure of the text encoder.
        batch_size: pictures in the batch.
        dropout: share of captions that the empty prompt replaces.
    """
    k_index, k_caption, k_drop, k_latent, k_t, k_noise = jax.random.split(key, 6)
    index = random_indices(k_index, batch_size, len(data.captions))
    caption = jax.random.randint(k_caption, (batch_size,), 0, CAPTIONS_PER_PICTURE)
    mean, deviation = jnp.moveaxis(data.moments[index].astype(jnp.float32), 1, 0)
    latents = mean + deviation * split_over_devices(jax.random.normal(k_latent, mean.shape))
    ids = data.captions[index, caption].astype(jnp.int32)
    dropped = jax.random.bernoulli(k_drop, dropout, (batch_size, 1))
    ids = jnp.where(dropped, data.empty, ids)
    text = jax.lax.stop_gradient(nnx.merge(text_graphdef, data.text_params)(ids).states)
    t = (jnp.arange(batch_size) + jax.random.uniform(k_t, (batch_size,))) * schedule.TRAIN_TIMESTEPS / batch_size
    t = t.astype(jnp.int32)
    noise = split_over_devices(jax.random.normal(k_noise, latents.shape))
    noisy = schedule.add_noise(NOISE_SCHEDULE, latents, noise, t)
    return NoisyBatch(index, noisy, t, text, schedule.target(NOISE_SCHEDULE, latents, noise, t))
