"""Knowing when to stop: a loss that is comparable from step to step, and when it has settled.

The loss of a training step says nearly nothing about progress, since timesteps and noise that are drawn anew move it
far more than what was learned. On the same samples every time, it falls and then settles, which is the moment to stop
(Voronov et al. 2023, "Is This Loss Informative?", arXiv 2302.04841).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dreamstyler_jax.inversion import Batch, Dataset, sample_losses
from dreamstyler_jax.runtime.memory import fewer, is_exhausted, nothing_fits, say_what_fits
from dreamstyler_jax.stable_diffusion import schedule
from dreamstyler_jax.stable_diffusion.networks import Networks

SAMPLES_PER_STAGE = 4
_LATENTS_AT_ONCE = SAMPLES_PER_STAGE * 64 * 64  # those of one stage with Stable Diffusion 1.5 at 512 x 512 pixels
WINDOW, RATIO = 6, 0.1  # with these, styles of the embedded model settle after 80 to 100 steps


def evaluation_batch(dataset: Dataset, stages: int) -> Batch:
    """The samples that measure the loss, always the same for a dataset: a `Batch` [R, T / R * SAMPLES_PER_STAGE, ...].

    A row is computed at once: small latents of several stages, large ones of one stage. The timesteps of a stage are
    the middles of equal ranges. The pictures, in their first wording, take turns; so do their views.
    """
    count = stages * SAMPLES_PER_STAGE
    pictures, views = dataset.mean.shape[:2]
    picture, view = np.arange(count) % pictures, np.arange(count) // pictures % views
    latents = dataset.mean[picture, view]
    timesteps = jnp.asarray((np.arange(count) + 0.5) / count * schedule.TRAIN_TIMESTEPS, jnp.int32)
    tokens = jax.tree.map(lambda rows: rows[picture, 0], dataset.tokens)
    noise = jax.random.normal(jax.random.key(0), latents.shape)
    weights = None if dataset.latent_weights is None else dataset.latent_weights[picture, view]
    of_stage = SAMPLES_PER_STAGE * latents.shape[1] * latents.shape[2]
    divisors = [n for n in range(1, stages + 1) if stages % n == 0]
    rows = next((n for n in divisors if stages // n * of_stage <= _LATENTS_AT_ONCE), stages)
    flat = Batch(latents, noise, timesteps, tokens, weights)
    return jax.tree.map(lambda leaf: leaf.reshape(rows, -1, *leaf.shape[1:]), flat)


@functools.partial(jax.jit, static_argnames="networks")
def evaluation_losses(networks: Networks, params: Any, tables: Mapping[str, Array], batch: Batch) -> Array:
    """The loss of each sample of a batch [R, B, ...], float32[R, B], computed row after row."""
    return jax.lax.map(lambda row: sample_losses(networks, params, tables, row), batch)


class Watch:
    """The evaluation losses of one style while it is learned.

    Args:
        networks, params: the model.
        dataset: the pictures to measure with.
        stages: T.
        earlier: the losses of a training that is resumed, as from `measure`.
        loss: computes the loss of each sample of a batch as `evaluation_losses` does.

    Attributes:
        losses: of each evaluation the loss of each stage.
    """

    def __init__(
        self,
        networks: Networks,
        params: Any,
        dataset: Dataset,
        stages: int,
        earlier: Sequence[Sequence[float]] = (),
        loss: Callable[..., Array] = evaluation_losses,
    ):
        self._model, self._dataset, self._stages, self._loss = (networks, params), dataset, stages, loss
        self.losses = list(earlier)

    @functools.cached_property
    def _batch(self) -> Batch:
        return evaluation_batch(self._dataset, self._stages)

    def measure(self, tables: Mapping[str, np.ndarray]) -> list[float]:
        """The loss of each stage, to seven digits, as a log keeps them.

        Raises:
            UserError: a device's memory is too small for one sample at a time.
        """
        loss = [float(f"{value:.7g}") for value in self._of_stages(tables)]
        self.losses.append(loss)
        return loss

    def _of_stages(self, tables: Mapping[str, np.ndarray]) -> np.ndarray:
        while True:
            try:
                losses = np.asarray(self._loss(*self._model, tables, self._batch))
            except jax.errors.JaxRuntimeError as error:
                self._batch = _in_smaller_rows(self._batch, error)
                continue
            return losses.reshape(self._stages, -1).mean(1)


def _in_smaller_rows(batch: Batch, error: Exception) -> Batch:
    """An evaluation's samples in more rows after an error, if memory was exhausted."""
    if not is_exhausted(error):
        raise error
    together = batch.timesteps.shape[1]
    if together == 1:
        advice = "give a smaller --resolution, --dtype bfloat16 if it is not, or --evaluate_every 0"
        raise nothing_fits("one sample of the evaluation", advice) from error
    less = fewer(together)
    say_what_fits(f"{together} samples of the evaluation", f"computing {less} at once, with the same result")
    return jax.tree.map(lambda leaf: leaf.reshape(-1, less, *leaf.shape[2:]), batch)


def settled_at(losses: Sequence[Sequence[float]]) -> int | None:
    """The number of the first evaluation, from 0, at which the loss had settled; None if it has not yet.

    It has when the variance of the last `WINDOW` values is below `RATIO` of the variance of all so far (DVAR). Each
    stage's loss counts relative to its first value, or the stage of the finest detail would outweigh all others.

    Args:
        losses: of each evaluation the loss of each stage, [N, T].
    """
    if len(losses) <= WINDOW:
        return None
    relative = (np.array(losses) / losses[0]).mean(axis=1)
    for end in range(WINDOW + 1, len(relative) + 1):
        if relative[end - WINDOW : end].var() < RATIO * relative[:end].var():
            return end - 1
    return None
