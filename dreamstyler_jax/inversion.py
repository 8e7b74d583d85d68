"""Multi-stage textual inversion (Ahn et al. 2024, Eq. 1-2): the loss, one step, the scanned training loop.

Training learns one thing: the tables float32[T, V, D] of a style, a pytree. Training step k depends on (seed, k) alone,
so a resumed run continues bit for bit. The images go through the VAE once, before the loop: training needs only the
mean and the deviation of the latents of each image, of crops of it, and of their mirror images.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from dreamstyler_jax.encoding import Tokens, encode_spliced, tokenize
from dreamstyler_jax.framing import latent_weights
from dreamstyler_jax.runtime.devices import mesh, on_all_devices, part_of_batch, placed, replicate, shared, split_batch
from dreamstyler_jax.stable_diffusion import schedule
from dreamstyler_jax.stable_diffusion.networks import Networks
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.timestep_sampling import UNIFORM, TimestepPlan, draw_timesteps, plan_timesteps

T = TypeVar("T")
Tables = Mapping[str, Array]
Advance = Callable[..., tuple["TrainState", "Metrics"]]  # what `make_trainer` returns


class Dataset(NamedTuple):
    """N images of one style, with M views each: the image, or C crops of it, and the mirror image of each.

    Attributes:
        mean, deviation: of the scaled latents, float32[N, M, h, w, c].
        tokens: each image's prompt in P wordings, [N, P, L], for each text encoder.
        latent_weights: how much each latent counts, float32[N, M, h, w], 1 on average in each view; None if all are 1.
    """

    mean: Array
    deviation: Array
    tokens: Mapping[str, Tokens]
    latent_weights: Array | None = None


class Batch(NamedTuple):
    """What one forward pass sees.

    Attributes:
        latents, noise: float32[B, h, w, c].
        timesteps: int32[B].
        tokens: [B, L], for each text encoder.
        latent_weights: float32[B, h, w], as in `Dataset`.
        sample_weights: how much the loss of each sample counts, float32[B]; None if all are 1.
    """

    latents: Array
    noise: Array
    timesteps: Array
    tokens: Mapping[str, Tokens]
    latent_weights: Array | None = None
    sample_weights: Array | None = None


class TrainState(NamedTuple):
    """Everything that changes while training.

    Attributes:
        tables: of each text encoder, float32[T, V, D].
        optimizer: the optimizer's state.
        step: steps done, int32[].
        average: the moving average of the tables; None if there is none.
    """

    tables: Tables
    optimizer: Any
    step: Array
    average: Tables | None = None


class Metrics(NamedTuple):
    """Measurements of one step.

    Attributes:
        loss: the mean loss, float32[], without the weights of the samples.
        stage_loss: the sum of the losses of each stage's samples, float32[T].
        stage_count: the number of samples of each stage, float32[T].
        gradient_norm: the L2 norm of the gradient of all tables, float32[].
    """

    loss: Array
    stage_loss: Array
    stage_count: Array
    gradient_norm: Array


class Load(NamedTuple):
    """What each device computes at once; the less, the less memory it takes.

    Attributes:
        styles: how many of its styles.
        samples: how many of its samples of each style's batch.
    """

    styles: int
    samples: int


class Settings(NamedTuple):
    """What the compiled training step depends on besides shapes; hashable."""

    batch_size: int
    gradient_accumulation: int
    seed: int
    average: float = 0.0
    timesteps: str = "uniform"


def make_dataset(
    model: StableDiffusion,
    images: Sequence[np.ndarray],
    prompts: Sequence[Sequence[str]],
    vectors: int,
    *,
    flip: bool,
    name: str = "style",
    counted: Sequence[np.ndarray | None] = (),
) -> Dataset:
    """Encodes training images and tokenises their prompts.

    Args:
        model: its VAE encodes the images.
        images: float32[H, W, 3] in [-1, 1], all of one size, or as many crops [C, H, W, 3] of each.
        prompts: for each image one prompt or several wordings, with the placeholder {} or {name}.
        vectors: V, the number of vectors that the placeholder stands for.
        flip: also learn from the mirror images.
        name: the style's name.
        counted: how much of each image's pixels counts, [C, H, W], see `framing.Squares`; None where everything does.

    Raises:
        UserError: a prompt has no placeholder, or one beyond the text encoder's window.
    """
    count = math.lcm(*map(len, prompts))
    texts = [wordings[i % len(wordings)] for wordings in prompts for i in range(count)]
    tokens = tokenize(model.tokenizers, texts, {name: vectors}, required=True)
    crops = [image.reshape(-1, *image.shape[-3:]) for image in images]
    moments = [model.encode_images(views) for of_image in crops for views in _with_mirror_images(of_image, flip)]
    mean, deviation = (
        jnp.stack(parts).reshape(len(images), -1, *parts[0].shape[1:]) for parts in zip(*moments, strict=True)
    )
    by_image = jax.tree.map(lambda rows: jnp.asarray(rows.reshape(len(prompts), count, -1)), tokens)
    weights = None
    if any(of_image is not None for of_image in counted):
        everything = np.ones(crops[0].shape[:3], np.float32)
        shares = [everything if of_image is None else of_image for of_image in counted]
        views = np.stack([_with_mirror_images(of_image, flip) for of_image in shares])
        weights = jnp.asarray(latent_weights(views, *mean.shape[2:4]).reshape(mean.shape[:4]))
    return Dataset(mean, deviation, by_image, weights)


def _with_mirror_images(crops: np.ndarray, flip: bool) -> np.ndarray:
    """Crops [C, H, W, ...], each with its mirror image if ``flip``: [C, 2 or 1, H, W, ...]."""
    return np.stack([crops, crops[:, :, ::-1]] if flip else [crops], axis=1)


def draw_batch(dataset: Dataset, key: Array, size: int, plan: TimestepPlan = UNIFORM) -> Batch:
    """Draws a random batch: images, their views, wordings, posterior samples, noise and, by the plan, timesteps."""
    k_image, k_view, k_latent, k_time, k_noise = jax.random.split(key, 5)
    count, views = dataset.mean.shape[:2]
    image = jax.random.randint(k_image, (size,), 0, count)
    view = jax.random.randint(k_view, (size,), 0, views)
    mean, deviation = dataset.mean[image, view], dataset.deviation[image, view]
    latents = mean + deviation * jax.random.normal(k_latent, mean.shape)
    timesteps = draw_timesteps(plan, k_time, size)
    noise = jax.random.normal(k_noise, mean.shape)
    wordings = dataset.tokens["clip_l"].ids.shape[1]
    wording = jax.random.randint(jax.random.fold_in(key, 5), (size,), 0, wordings)
    tokens = jax.tree.map(lambda rows: rows[image, wording], dataset.tokens)
    latent_weights = None if dataset.latent_weights is None else dataset.latent_weights[image, view]
    sample_weights = None if plan.weights is None else jnp.asarray(plan.weights, jnp.float32)[timesteps]
    return Batch(latents, noise, timesteps, tokens, latent_weights, sample_weights)


def sample_losses(networks: Networks, params: Any, tables: Tables, batch: Batch) -> Array:
    """The denoising loss of every sample, float32[B] (Eq. 2): the squared error of eps (or v), averaged over latents.

    The average is weighted by ``batch.latent_weights``. The sample at timestep t sees its prompt with the vectors of
    stage_of(t).
    """
    vectors = jax.tree.map(lambda table: table[schedule.stage_of(batch.timesteps, len(table))], tables)
    conditioning = encode_spliced(networks, params, batch.tokens, vectors)
    noisy = schedule.add_noise(networks.schedule, batch.latents, batch.noise, batch.timesteps)
    prediction = networks.denoise(params, noisy, batch.timesteps, conditioning)
    target = schedule.target(networks.schedule, batch.latents, batch.noise, batch.timesteps)
    errors = (prediction - target) ** 2
    if batch.latent_weights is not None:
        errors = errors * batch.latent_weights[..., None]
    return jnp.mean(errors, axis=(1, 2, 3))


def gradient(networks: Networks, params: Any, tables: Tables, batch: Batch) -> tuple[Tables, Metrics]:
    """The gradient of the mean weighted loss with respect to the tables, and the metrics of the batch."""

    def loss(tables: Tables) -> tuple[Array, Array]:
        losses = sample_losses(networks, params, tables, batch)
        weighted = losses if batch.sample_weights is None else losses * batch.sample_weights
        return weighted.mean(), losses

    (_, losses), grads = jax.value_and_grad(loss, has_aux=True)(tables)
    stages = len(next(iter(tables.values())))
    of_stage = jax.nn.one_hot(schedule.stage_of(batch.timesteps, stages), stages)
    return grads, Metrics(losses.mean(), losses @ of_stage, of_stage.sum(0), optax.tree.norm(grads))


def mean_gradient(
    compute: Callable[[Any], tuple[Tables, Metrics]], tables: Tables, parts: Any
) -> tuple[Tables, Metrics]:
    """The mean of the gradients of N parts of one size, computed one after another, and the metrics of them all.

    Args:
        compute: maps a part to its gradient and metrics, as `gradient` does with a batch.
        tables: what the gradient is with respect to.
        parts: a pytree of arrays [N, ...].
    """
    count = len(jax.tree.leaves(parts)[0])

    def add(total: Tables, part: Any) -> tuple[Tables, Metrics]:
        grads, metrics = compute(part)
        return jax.tree.map(lambda a, b: a + b / count, total, grads), metrics

    grads, of_parts = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, tables), parts)
    sums = of_parts.stage_loss.sum(0), of_parts.stage_count.sum(0)
    return grads, Metrics(of_parts.loss.mean(), *sums, optax.tree.norm(grads))


def gradient_in_passes(
    networks: Networks, params: Any, tables: Tables, batch: Batch, samples: int
) -> tuple[Tables, Metrics]:
    """Like `gradient`, with a pass for every ``samples`` samples, a divisor of their number: less memory."""
    compute = functools.partial(gradient, networks, params, tables)
    if samples == len(batch.timesteps):
        return compute(batch)
    return mean_gradient(compute, tables, jax.tree.map(lambda leaf: leaf.reshape(-1, samples, *leaf.shape[1:]), batch))


def mean_over_devices(grads: Tables, metrics: Metrics) -> tuple[Tables, Metrics]:
    """The gradient of a batch from those of its parts, one on each device (`devices.on_all_devices`).

    All sums are one all-reduce, the only one in a training step.
    """
    sums = jax.lax.psum((grads, metrics.loss, metrics.stage_loss, metrics.stage_count), "batch")
    (grads, loss), stage_loss, stage_count = jax.tree.map(lambda total: total / mesh().size, sums[:2]), sums[2], sums[3]
    return grads, Metrics(loss, stage_loss, stage_count, optax.tree.norm(grads))


def start(
    tables: Mapping[str, np.ndarray], optimizer: optax.GradientTransformation, *, averaged: bool = False
) -> TrainState:
    """The state before the first step; with a moving average of the tables if it is ``averaged``."""
    arrays = {name: jnp.asarray(table, jnp.float32) for name, table in tables.items()}
    average = jax.tree.map(jnp.zeros_like, arrays) if averaged else None
    return TrainState(arrays, optimizer.init(arrays), jnp.int32(0), average)


def stack_trees(trees: Sequence[T]) -> T:
    """Pytrees of one shape as one with a leading axis, split over the devices if their number divides it."""
    tree = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    return jax.device_put(tree, placed("batch")) if shared(len(trees)) else replicate(tree)


def unstack_trees(tree: T, count: int) -> list[T]:
    """Undoes `stack_trees`."""
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]


def whole_load(styles: int, batch_size: int) -> Load:
    """All that a device has to compute: its part of the styles, or else of every batch, if their number divides it."""
    if shared(styles):
        return Load(styles // mesh().size, batch_size)
    return Load(styles, batch_size // mesh().size if shared(batch_size) else batch_size)


def make_trainer(networks: Networks, optimizer: optax.GradientTransformation, settings: Settings) -> Advance:
    """The training loop between two log points, for one style or for several that do not influence each other.

    Returns:
        ``advance(states, params, datasets, steps, load=None) -> (states, metrics)``, one compiled ``lax.scan`` over
        ``steps`` steps. States, datasets and metrics have a leading axis of styles, [S, ...], from `stack_trees`; the
        second axis of the metrics is [steps]. The states given are donated. Several devices share the styles if their
        number divides S, or else every batch if it divides the batch size; ``params`` are then on all devices. With a
        `Load`, whose numbers divide `whole_load`'s, they compute no more than that at once; the result is the same.
    """

    def one_step(
        samples: int, split: bool, params: Any, dataset: Dataset, state: TrainState
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
        stages = len(next(iter(state.tables.values())))
        plan = plan_timesteps(settings.timesteps, networks.schedule, stages)

        def of_pass(key: Array) -> tuple[Tables, Metrics]:
            batch = draw_batch(dataset, key, settings.batch_size, plan)
            return gradient_in_passes(networks, params, state.tables, part_of_batch(batch) if split else batch, samples)

        grads, metrics = mean_gradient(of_pass, state.tables, jax.random.split(key, settings.gradient_accumulation))
        if split:
            grads, metrics = mean_over_devices(grads, metrics)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.tables)
        tables = cast(Tables, optax.apply_updates(state.tables, updates))
        average = state.average and optax.tree.update_moment(tables, state.average, settings.average, 1)
        return TrainState(tables, optimizer_state, state.step + 1, average), metrics

    @functools.partial(jax.jit, static_argnames=("steps", "load"), donate_argnums=0)
    def advance(
        states: TrainState, params: Any, datasets: Dataset, steps: int, load: Load | None = None
    ) -> tuple[TrainState, Metrics]:
        count = len(states.step)
        whole = whole_load(count, settings.batch_size)
        at_once = load or whole
        split_batches = whole.samples < settings.batch_size

        def train_one(state: TrainState, params: Any, dataset: Dataset) -> tuple[TrainState, Metrics]:
            step = functools.partial(one_step, at_once.samples, split_batches, params, dataset)
            return jax.lax.scan(lambda state, _: step(state), state, None, steps)

        def train_all(states: TrainState, params: Any, datasets: Dataset) -> tuple[TrainState, Metrics]:
            if at_once.styles == whole.styles:
                return jax.vmap(train_one, in_axes=(0, None, 0))(states, params, datasets)
            return jax.lax.map(
                lambda style: train_one(style[0], params, style[1]), (states, datasets), batch_size=at_once.styles
            )

        if whole.styles < count:
            return split_batch(train_all, in_axes=(0, None, 0))(states, params, datasets)
        return (on_all_devices(train_all) if split_batches else train_all)(states, params, datasets)

    return advance


def summarize(metrics: Metrics) -> dict[str, Any]:
    """The means over the steps of a chunk [steps], for the log; ``stage_loss`` is nan where a stage had no sample."""
    with np.errstate(invalid="ignore"):
        stage_loss = np.asarray(metrics.stage_loss).sum(0) / np.asarray(metrics.stage_count).sum(0)
    return {
        "loss": float(metrics.loss.mean()),
        "gradient_norm": float(metrics.gradient_norm.mean()),
        "stage_loss": stage_loss.tolist(),
    }
