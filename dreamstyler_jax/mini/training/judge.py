"""Training of the judge."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from dreamstyler_jax.mini.judge import Judge, JudgeConfig
from dreamstyler_jax.mini.training.batches import random_indices, randomly_mirrored
from dreamstyler_jax.mini.training.trainer import Loss, Part, Plan, fit
from dreamstyler_jax.mini.world.data import Pictures
from dreamstyler_jax.runtime import images


class LabelledPictures(NamedTuple):
    """What the judge learns from."""

    pixels: Array  # uint8[N, 64, 64, 3]
    labels: Array  # int32[N, 5]


def train_judge(plan: Plan, config: JudgeConfig, pictures: Pictures) -> Part:
    """Trains the judge on rendered pictures and their labels."""
    part = Part.untrained(Judge, config, plan.seed)
    loss = judge_loss(part.graphdef, config.classes, plan.batch_size)
    data = LabelledPictures(*map(jnp.asarray, pictures))
    return part._replace(params=fit(plan, loss, part.params, data))


def judge_loss(graphdef: nnx.GraphDef, classes: tuple[int, ...], batch_size: int) -> Loss:
    """Sum of the cross entropies of all answers; a number beyond the painters' is the camera, their last answer."""

    def loss(params, data: LabelledPictures, key):
        k_index, k_augment = jax.random.split(key)
        index = random_indices(k_index, batch_size, len(data.pixels))
        pixels = augmented(k_augment, images.to_unit(data.pixels[index]))
        labels = jnp.minimum(data.labels[index], jnp.asarray(classes) - 1)
        answers = nnx.merge(graphdef, params)(pixels)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        losses = (cross_entropy(logits, labels[:, i]).mean() for i, logits in enumerate(answers))
        return sum(losses, start=jnp.float32(0))

    return loss


def augmented(key: Array, pictures: Array) -> Array:
    """Pictures [B, 64, 64, 3], mirrored at random, blurred at random (the autoencoder blurs) and with random noise."""
    k_flip, k_blur, k_amount, k_noise = jax.random.split(key, 4)
    batch = (pictures.shape[0], 1, 1, 1)
    x = randomly_mirrored(k_flip, pictures)
    up, right, down, left = (jnp.roll(x, shift, (1, 2)) for shift in ((0, 1), (1, 0), (0, -1), (-1, 0)))
    blurred = (up + right + down + left) / 4
    x = x + jax.random.bernoulli(k_blur, 0.6, batch) * jax.random.uniform(k_amount, batch) * (blurred - x)
    return x + 0.1 * jax.random.uniform(k_blur, batch) * jax.random.normal(k_noise, x.shape)
