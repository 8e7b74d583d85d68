"""Training of the judge."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from dreamstyler_jax.mini.judge import Judge, JudgeConfig
from dreamstyler_jax.mini.training.batches import random_indices, randomly_mirrored
from dreamstyler_jax.mini.training.trainer import Loss, Part, Plan, trained
from dreamstyler_jax.mini.world import captions
from dreamstyler_jax.mini.world.data import NO_MANNER, Pictures
from dreamstyler_jax.runtime import images


class LabelledPictures(NamedTuple):
    """What the judge learns from."""

    pixels: Array | np.ndarray  # uint8[N, 128, 128, 3]
    labels: Array | np.ndarray  # int32[N, 9]


def train_judge(plan: Plan, config: JudgeConfig, pictures: Pictures) -> Part:
    """Trains the judge on rendered pictures and their labels."""
    part = Part.untrained(Judge, config, plan.seed)
    loss = judge_loss(part.graphdef, config.classes, plan.batch_size)
    data = LabelledPictures(*pictures)
    return trained(plan, part, loss, data)


def judge_loss(graphdef: nnx.GraphDef, classes: tuple[int, ...], batch_size: int) -> Loss:
    """Sum of the cross entropies of all answers to which there is a right one.

    A nameless painter is none of the judge's painters, and a photograph has no technique, palette, touch or ground. The
    camera is the painters' last answer.
    """

    def loss(params, data: LabelledPictures, key):
        k_index, k_augment = jax.random.split(key)
        index = random_indices(k_index, batch_size, len(data.pixels))
        pixels = augmented(k_augment, images.to_unit(data.pixels[index]))
        labels = data.labels[index]
        answerable = (labels != NO_MANNER) & (labels != captions.NAMELESS)
        labels = jnp.clip(labels, 0, jnp.asarray(classes) - 1)
        answers = nnx.merge(graphdef, params)(pixels)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        losses = [cross_entropy(logits.astype(jnp.float32), labels[:, i]) for i, logits in enumerate(answers)]
        return (jnp.stack(losses, 1) * answerable).sum() / batch_size

    return loss


def augmented(key: Array, pictures: Array) -> Array:
    """Pictures [B, 128, 128, 3], at random mirrored, blurred (the autoencoder blurs) and with noise."""
    k_flip, k_blur, k_amount, k_noise = jax.random.split(key, 4)
    batch = (pictures.shape[0], 1, 1, 1)
    x = randomly_mirrored(k_flip, pictures)
    up, right, down, left = (jnp.roll(x, shift, (1, 2)) for shift in ((0, 1), (1, 0), (0, -1), (-1, 0)))
    blurred = (up + right + down + left) / 4
    x = x + jax.random.bernoulli(k_blur, 0.6, batch) * jax.random.uniform(k_amount, batch) * (blurred - x)
    return x + 0.1 * jax.random.uniform(k_blur, batch) * jax.random.normal(k_noise, x.shape)
