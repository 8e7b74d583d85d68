"""Multi-stage textual inversion (Ahn et al. 2024, Eq. 1-2): the loss, one step, the scanned training loop.

The only thing learned is the table float32[T, V, D]. Training step k depends on (seed, k) alone, so a resumed run
continues bit for bit. The images go through the VAE once, before the loop: the mean and deviation of an image's and
of its mirror image's latents are all that training needs of it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from dreamstyler_jax.prompts import splice
from dreamstyler_jax.runtime.devices import on_every, own_part, placed, shared, split_batch
from dreamstyler_jax.stable_diffusion import schedule
from dreamstyler_jax.stable_diffusion.pipeline import Networks, StableDiffusion
from dreamstyler_jax.stable_diffusion.tokenizer import tokenize_with_placeholders

T = TypeVar("T")


class Dataset(NamedTuple):
    """N images of one style, M = 2 with their mirror images, else 1.

    ``mean, deviation``: float32[N, M, h, w, c] of the scaled latents; ``ids, slots``: int32[N, P, L], each image's
    prompt in P wordings.
    """

    mean: Array
    deviation: Array
    ids: Array
    slots: Array


class Batch(NamedTuple):
    """What one forward pass sees.

    ``latents, noise``: float32[B, h, w, c]; ``timesteps``: int32[B]; ``ids, slots``: int32[B, L].
    """

    latents: Array
    noise: Array
    timesteps: Array
    ids: Array
    slots: Array


class TrainState(NamedTuple):
    """Everything that changes while training: ``table`` float32[T, V, D], the optimizer's state, ``step`` int32[]."""

    table: Array
    optimizer: Any
    step: Array


class Metrics(NamedTuple):
    """Of one step: mean ``loss``; sum and number of the losses of each stage, float32[T]; norm of the gradient."""

    loss: Array
    stage_loss: Array
    stage_count: Array
    gradient_norm: Array


class Settings(NamedTuple):
    """What the compiled step depends on, besides shapes; hashable."""

    batch_size: int
    gradient_accumulation: int
    seed: int


def make_dataset(
    model: StableDiffusion,
    images: Sequence[np.ndarray],
    prompts: Sequence[Sequence[str]],
    vectors: int,
    *,
    flip: bool,
    name: str = "style",
) -> Dataset:
    """Encodes images float32[H, W, 3] in [-1, 1], all of one size, and their prompts with the placeholder {} or {name}.

    Args:
      prompts: for each image one prompt or several wordings.

    Raises:
      UserError: a prompt without a placeholder, or with one beyond the text encoder's window.
    """
    tokenize = functools.partial(tokenize_with_placeholders, model.tokenizer, required=True)
    count = math.lcm(*map(len, prompts))
    texts = [wordings[i % len(wordings)] for wordings in prompts for i in range(count)]
    ids, slots = (np.stack(parts) for parts in zip(*(tokenize(text, {name: vectors}) for text in texts), strict=True))
    moments = []
    for image in images:
        both = np.stack([image, image[:, ::-1]] if flip else [image])
        moments.append(_encode_images(model.networks, model.params, both))
    mean, deviation = (jnp.stack(parts) for parts in zip(*moments, strict=True))
    return Dataset(mean, deviation, *(jnp.asarray(part.reshape(len(prompts), count, -1)) for part in (ids, slots)))


@functools.partial(jax.jit, static_argnames="networks")
def _encode_images(networks: Networks, params: Any, images: np.ndarray) -> tuple[Array, Array]:
    """One program for the pictures of all styles."""
    return networks.encode_images(params, images)


def draw_batch(dataset: Dataset, key: Array, size: int) -> Batch:
    """A random batch: images, mirroring, wordings, a posterior sample, noise, timesteps.

    Each timestep is uniform on 0..999; within a batch they are stratified, one in each ``size``-th of the range.
    """
    k_image, k_mirror, k_latent, k_time, k_noise = jax.random.split(key, 5)
    count, mirrors = dataset.mean.shape[:2]
    image = jax.random.randint(k_image, (size,), 0, count)
    mirror = jax.random.randint(k_mirror, (size,), 0, mirrors)
    mean, deviation = dataset.mean[image, mirror], dataset.deviation[image, mirror]
    latents = mean + deviation * jax.random.normal(k_latent, mean.shape)
    position = (jnp.arange(size) + jax.random.uniform(k_time, (size,))) / size
    timesteps = jnp.minimum((position * schedule.TRAIN_TIMESTEPS).astype(jnp.int32), schedule.TRAIN_TIMESTEPS - 1)
    noise = jax.random.normal(k_noise, mean.shape)
    wording = jax.random.randint(jax.random.fold_in(key, 5), (size,), 0, dataset.ids.shape[1])
    return Batch(latents, noise, timesteps, dataset.ids[image, wording], dataset.slots[image, wording])


def sample_losses(networks: Networks, params: Any, table: Array, batch: Batch) -> Array:
    """The denoising loss of every sample, float32[B]: squared error of eps (or v), averaged over the latents (Eq. 2).

    The sample at timestep t sees its prompt with the vectors of stage_of(t).
    """
    vectors = table[schedule.stage_of(batch.timesteps, table.shape[0])]
    embeddings = splice(networks.embed_tokens(params, batch.ids), batch.slots, vectors)
    states = networks.encode_text(params, embeddings, batch.ids)
    noisy = schedule.add_noise(networks.schedule, batch.latents, batch.noise, batch.timesteps)
    prediction = networks.denoise(params, noisy, batch.timesteps, states)
    target = schedule.target(networks.schedule, batch.latents, batch.noise, batch.timesteps)
    return jnp.mean((prediction - target) ** 2, axis=(1, 2, 3))


def gradient(networks: Networks, params: Any, table: Array, batch: Batch) -> tuple[Array, Metrics]:
    """The gradient of the mean loss by the table, and the metrics of the batch."""

    def loss(table):
        losses = sample_losses(networks, params, table, batch)
        return losses.mean(), losses

    (value, losses), grads = jax.value_and_grad(loss, has_aux=True)(table)
    of_stage = jax.nn.one_hot(schedule.stage_of(batch.timesteps, table.shape[0]), table.shape[0])
    return grads, Metrics(value, losses @ of_stage, of_stage.sum(0), optax.tree.norm(grads))


def gradient_in_parts(networks: Networks, params: Any, table: Array, batch: Batch) -> tuple[Array, Metrics]:
    """As `gradient`, each device computing a part of the batch (`devices.on_every`)."""
    grads, metrics = gradient(networks, params, table, own_part(batch))
    grads, loss = jax.lax.pmean((grads, metrics.loss), "batch")
    stage_loss, stage_count = jax.lax.psum((metrics.stage_loss, metrics.stage_count), "batch")
    return grads, Metrics(loss, stage_loss, stage_count, optax.tree.norm(grads))


def make_optimizer(
    *, learning_rate: float, warmup_steps: int, schedule: str, steps: int, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW (betas 0.9, 0.999; eps 1e-8) with a linear warm-up and then a constant, linear or cosine schedule.

    Defaults of the reference: constant, no warm-up, weight decay 1e-2 (DreamStyler's ``train.py``).
    """
    rest = steps - warmup_steps
    after = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, 0.0, max(rest, 1)),
        "cosine": optax.cosine_decay_schedule(learning_rate, max(rest, 1)),
    }[schedule]
    warmup = optax.linear_schedule(learning_rate / max(warmup_steps, 1), learning_rate, max(warmup_steps - 1, 1))
    rate = optax.join_schedules([warmup, after], [warmup_steps]) if warmup_steps else after
    return optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)


def start(table: np.ndarray, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    table = jnp.asarray(table, jnp.float32)
    return TrainState(table, optimizer.init(table), jnp.int32(0))


def stacked(trees: Sequence[T]) -> T:
    """Pytrees of one shape as one with a leading axis, on all devices, split where their number divides it."""
    tree = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    return jax.device_put(tree, placed("batch") if shared(len(trees)) else placed())


def unstacked(tree: T, count: int) -> list[T]:
    """What `stacked` has put together."""
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]


def make_trainer(
    networks: Networks, optimizer: optax.GradientTransformation, settings: Settings
) -> Callable[[TrainState, Any, Dataset, int], tuple[TrainState, Metrics]]:
    """The training loop between two log points, of one style or of several at once, each as if it were alone.

    Returns:
      ``advance(states, params, datasets, steps) -> (states, metrics)``: one compiled ``lax.scan`` over ``steps`` steps.
      States, datasets and metrics are `stacked`, [S, ...]; the metrics' second axis is [steps]. The states given are
      donated. Several devices share the styles where their number divides S, or else every batch where it divides that;
      ``params`` are then on all of them.
    """

    def one_step(
        of_batch: Callable[..., tuple[Array, Metrics]], params: Any, dataset: Dataset, state: TrainState
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(settings.seed), state.step)

        def accumulate(total, key):
            grads, metrics = of_batch(networks, params, state.table, draw_batch(dataset, key, settings.batch_size))
            return total + grads / settings.gradient_accumulation, metrics

        keys = jax.random.split(key, settings.gradient_accumulation)
        grads, parts = jax.lax.scan(accumulate, jnp.zeros_like(state.table), keys)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.table)
        table = optax.apply_updates(state.table, updates)
        metrics = Metrics(parts.loss.mean(), parts.stage_loss.sum(0), parts.stage_count.sum(0), optax.tree.norm(grads))
        return TrainState(table, optimizer_state, state.step + 1), metrics

    @functools.partial(jax.jit, static_argnames="steps", donate_argnums=0)
    def advance(states: TrainState, params: Any, datasets: Dataset, steps: int) -> tuple[TrainState, Metrics]:
        split_styles = shared(len(states.table))
        split = not split_styles and shared(settings.batch_size)
        of_batch = gradient_in_parts if split else gradient

        def alone(state: TrainState, params: Any, dataset: Dataset) -> tuple[TrainState, Metrics]:
            return jax.lax.scan(lambda state, _: one_step(of_batch, params, dataset, state), state, None, steps)

        together = jax.vmap(alone, in_axes=(0, None, 0))
        if split_styles:
            together = split_batch(together, in_axes=(0, None, 0))
        elif split:
            together = on_every(together)
        return together(states, params, datasets)

    return advance


def summarize(metrics: Metrics) -> dict[str, Any]:
    """Means over the steps of a chunk [steps], for the log; ``stage_loss`` is nan where a stage had no sample."""
    with np.errstate(invalid="ignore"):
        stage_loss = np.asarray(metrics.stage_loss).sum(0) / np.asarray(metrics.stage_count).sum(0)
    return {
        "loss": float(metrics.loss.mean()),
        "gradient_norm": float(metrics.gradient_norm.mean()),
        "stage_loss": stage_loss.tolist(),
    }
