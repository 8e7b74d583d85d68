"""The loop in which every part of the embedded model is trained: AdamW, a running average, checkpoints, all devices."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from tqdm import tqdm

from dreamstyler_jax.runtime.checkpoints import open_checkpoints
from dreamstyler_jax.runtime.devices import placed, replicate

CHUNK_STEPS = 10  # optimizer steps per compiled call


class Fit(NamedTuple):
    """The state of one part's training."""

    params: Any
    average: Any
    optimizer: Any
    step: Array


Loss = Callable[[Any, Any, Array, Array], Array]


def spread(batch: Array) -> Array:
    """The batch split over the devices, where they divide it."""
    if len(batch) % len(jax.devices()):
        return batch
    return jax.lax.with_sharding_constraint(batch, placed("batch"))


def fit(
    folder: Path,
    loss: Loss,
    params: Any,
    arrays: Any,
    *,
    steps: int,
    learning_rate: float,
    seed: int = 0,
    save_every: int = 100,
) -> Any:
    """Trains ``params`` and returns their running average (decay 0.999).

    Args:
      folder: holds the checkpoints; training goes on from the newest.
      loss: ``loss(params, arrays, key, step) -> scalar``; it draws its own batch, so step k depends on (seed, k) alone.
      arrays: the data, passed through to ``loss``.
      steps: optimizer updates.
      learning_rate: its highest value, after 100 steps; it falls over the last third.
      save_every: steps between two checkpoints, a multiple of 10.
    """
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0, learning_rate, 100),
            optax.constant_schedule(learning_rate),
            optax.linear_schedule(learning_rate, learning_rate / 100, steps // 3),
        ],
        [100, steps - steps // 3],
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.99, weight_decay=1e-3))

    @functools.partial(jax.jit, donate_argnums=0)
    def chunk(state: Fit, arrays: Any) -> tuple[Fit, Array]:
        def body(state, _):
            key = jax.random.fold_in(jax.random.key(seed), state.step)
            value, gradient = jax.value_and_grad(loss)(state.params, arrays, key, state.step)
            updates, opt = optimizer.update(gradient, state.optimizer, state.params)
            params = optax.apply_updates(state.params, updates)
            decay = jnp.minimum(0.999, state.step / (state.step + 10.0))
            average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)
            return Fit(params, average, opt, state.step + 1), value

        return jax.lax.scan(body, state, None, CHUNK_STEPS)

    begun, average = (jax.tree.map(jnp.copy, params) for _ in range(2))  # the state is donated, ``params`` are not ours
    state = Fit(begun, average, optimizer.init(params), jnp.int32(0))
    arrays = replicate(arrays)
    with open_checkpoints(folder) as checkpoints:
        state = replicate(checkpoints.restore(state) or state)
        done = int(state.step)
        with tqdm(total=steps, initial=done, desc=folder.name, unit="step", mininterval=10) as bar:
            while done < steps:
                state, losses = chunk(state, arrays)
                done = int(state.step)
                bar.set_postfix(loss=f"{losses.mean():.4f}", refresh=False)
                bar.update(CHUNK_STEPS)
                if done % save_every == 0 or done >= steps:
                    checkpoints.save(done, state)
    return state.average
