"""The loop that trains each part of the embedded model: AdamW, a running average of the weights, checkpoints."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from tqdm import tqdm

from dreamstyler_jax.runtime.checkpoints import open_checkpoints
from dreamstyler_jax.runtime.devices import replicate
from dreamstyler_jax.runtime.interruption import patiently, told_to_stop
from dreamstyler_jax.stable_diffusion.layers import ModelConfig
from dreamstyler_jax.stable_diffusion.weights import ModelClass, Params, init_model, load_model, save_model

WARMUP_STEPS = 100
AVERAGE_DECAY = 0.999

Loss = Callable[[Params, Any, Array], Array]  # from params, data and a PRNG key to a scalar; it draws its own batch


class Part(NamedTuple):
    """A network of the embedded model; ``nnx.merge(graphdef, params)`` puts it together."""

    network: ModelClass[Any]
    config: ModelConfig
    graphdef: nnx.GraphDef
    params: Params

    @classmethod
    def untrained(cls, network: ModelClass[Any], config: ModelConfig, seed: int) -> Self:
        """A network with random weights."""
        return cls(network, config, *init_model(network, config, seed=seed))


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a part is trained.

    Attributes:
        folder: holds its checkpoints, and its weights when it is trained; the name is shown beside the progress bar.
        steps: optimizer steps, rounded up to whole calls.
        batch_size: samples in a step, for the loss function to draw.
        learning_rate: the highest, reached after 100 steps; over the last third it falls to a hundredth.
        seed: step k depends on (seed, k) alone.
        save_every: steps between two checkpoints, rounded up to whole calls.
        steps_per_call: optimizer steps in one compiled call.
        dtype: of the computations in the networks. The optimizer, its weights and their average are float32.
        until: when to be done, by `time.monotonic`, with fewer steps if these would take longer.
    """

    folder: Path
    steps: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    save_every: int = 100
    steps_per_call: int = 10
    dtype: str = "float32"
    until: float = math.inf


class TrainingState(NamedTuple):
    """What a checkpoint holds."""

    params: Params
    average: Params
    optimizer: optax.OptState
    step: Array


def trained(plan: Plan, part: Part, loss: Loss, data: Any) -> Part:
    """The part with trained weights, which then are in the folder ``weights`` of the plan's.

    If they are there already, nothing is trained, however many steps the plan has; a line says so.

    Args:
        plan, loss, data: as of `fit`.
        part: the part with the weights to start from.
    """
    weights = plan.folder / "weights"
    if (weights / "config.json").exists():
        print(f"{plan.folder.name}: taken from {weights}; remove this folder to train it again", flush=True)
        return part._replace(params=load_model(part.network, weights, config=part.config)[1])
    part = part._replace(params=fit(plan, loss, part.params, data))
    save_model(weights, part.config, part.params)
    return part


def fit(
    plan: Plan, loss: Loss, params: Params, data: Any, after_save: Callable[[int], object] = lambda step: None
) -> Params:
    """Trains ``params``, from the newest checkpoint if there is one, and returns their running average.

    Args:
        plan: steps, learning rate and folder.
        loss: the loss function.
        params: the weights to start from.
        data: a pytree of arrays, passed on to ``loss``.
        after_save: called with the step of each checkpoint, once it is on disk.

    Raises:
        KeyboardInterrupt: the process was told to stop; what was learned is in a checkpoint.
    """
    optimizer = _optimizer()
    start, average = (jax.tree.map(jnp.copy, params) for _ in range(2))  # the compiled call reuses their memory
    state = TrainingState(start, average, optimizer.init(params), jnp.int32(0))
    data = replicate(data)
    advance = _compiled(plan, loss, optimizer)
    pace = _Pace(plan)
    with open_checkpoints(plan.folder / "checkpoints") as checkpoints, patiently("stopping after a checkpoint"):
        state = replicate(checkpoints.restore(state) or state)
        done = int(state.step)
        with tqdm(total=plan.steps, initial=done, desc=plan.folder.name, unit="step", mininterval=10) as bar:
            while done < pace.steps:
                before = done
                state, losses = advance(state, data, jnp.float32(pace.steps))
                done = int(state.step)
                bar.total = max(pace.reconsider(done), done)
                bar.set_postfix(loss=f"{losses.mean():.4f}", refresh=False)
                bar.update(done - before)
                if told_to_stop() or done // plan.save_every > before // plan.save_every or done >= pace.steps:
                    checkpoints.save(done, state)
                    after_save(done)
                if told_to_stop():
                    raise KeyboardInterrupt
    return state.average


def in_dtype(params: Params, dtype: str) -> Params:
    """The parameters in this type of floating-point numbers."""
    return jax.tree.map(lambda array: array.astype(dtype), params)


class _Pace:
    """How many steps to take: those of the plan, or as many as there is time for.

    The number is settled when the learning rate begins to fall. So the weights are those of a plan with that number.
    """

    def __init__(self, plan: Plan):
        self.steps = plan.steps
        self._plan = plan
        self._begin: tuple[int, float] | None = None  # steps and time after the first call, which compiles

    def reconsider(self, done: int) -> int:
        """The number of steps, now that ``done`` are done."""
        now = time.monotonic()
        if self._begin is None:
            self._begin = done, now
        elif done <= self.steps - self.steps // 3:
            seconds_per_step = (now - self._begin[1]) / (done - self._begin[0])
            there_is_time_for = max(0.0, self._plan.until - now) / max(seconds_per_step, 1e-9)
            self.steps = min(self._plan.steps, done + math.floor(min(there_is_time_for, self._plan.steps)))
        return self.steps


def _optimizer() -> optax.GradientTransformation:
    """AdamW, for a learning rate of -1."""
    adam = optax.scale_by_adam(b2=0.99)
    return optax.chain(optax.clip_by_global_norm(1.0), adam, optax.add_decayed_weights(1e-3))


def learning_rate(plan: Plan, step: Array, steps: Array) -> Array:
    """The learning rate in a step, counted from 0, of a training of ``steps`` steps."""
    last_third = steps // 3
    rising, falling = step / WARMUP_STEPS, (steps - step) / jnp.maximum(last_third, 1)
    return plan.learning_rate * jnp.clip(jnp.minimum(rising, 0.01 + 0.99 * falling), 0, 1)


def _compiled(
    plan: Plan, loss: Loss, optimizer: optax.GradientTransformation
) -> Callable[[TrainingState, Any, Array], tuple[TrainingState, Array]]:
    """A function that takes several optimizer steps of a given number; it returns their losses as well."""

    def loss_in_dtype(params: Params, data: Any, key: Array) -> Array:
        return loss(in_dtype(params, plan.dtype), data, key)

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state: TrainingState, data: Any, steps: Array) -> tuple[TrainingState, Array]:
        def step(state: TrainingState, _: None) -> tuple[TrainingState, Array]:
            key = jax.random.fold_in(jax.random.key(plan.seed), state.step)
            value, gradient = jax.value_and_grad(loss_in_dtype)(state.params, data, key)
            updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
            rate = learning_rate(plan, state.step, steps)
            params = jax.tree.map(lambda p, update: p - rate * update, state.params, updates)
            decay = jnp.minimum(AVERAGE_DECAY, state.step / (state.step + 10.0))
            average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)
            return TrainingState(params, average, optimizer_state, state.step + 1), value

        return jax.lax.scan(step, state, None, plan.steps_per_call)

    return advance
