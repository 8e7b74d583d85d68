"""Which timesteps training draws, and how much the loss counts at each: the choices of ``timesteps``.

A choice is a table over the 1000 timesteps, computed on the host. A sample's timestep is the inverse of its cumulative
distribution at a position in [0, 1), and the positions of a batch are stratified: one in each of B equal parts.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dreamstyler_jax.stable_diffusion.schedule import TRAIN_TIMESTEPS, NoiseSchedule, stage_of

if TYPE_CHECKING:  # commands read the choices before they import JAX
    import jax

CHOICES = {
    "uniform": "all alike",
    "balanced": "all alike, and in every batch each stage gets as many samples as any other, or one more or less",
    "style_friendly": "more of the noisy ones, where style is decided (Choi et al. 2024)",
    "min_snr": "all alike, but those of little noise count less (Hang et al. 2023)",
}
STYLE_LOG_SNR = NormalDist(-6.0, 2.0)  # of style_friendly (Choi et al. 2024)
STAGES_SHARE = 0.25  # of style_friendly's samples: divided equally among the stages, so that each gets some
GAMMA = 5.0  # of min_snr (Hang et al. 2023)


class TimestepPlan(NamedTuple):
    """How timesteps are drawn and weighed.

    Attributes:
        cumulative: the share of the samples with a timestep up to t, float64[1000]; None if all are alike.
        weights: of the loss at t, float64[1000]; None if all are 1.
        even: whether the positions of a batch are evenly spaced, by one random offset for all instead of one each: then
            a range of timesteps with a share of 1 / T has B / T of the batch's samples, rounded up or down.
    """

    cumulative: np.ndarray | None = None
    weights: np.ndarray | None = None
    even: bool = False


UNIFORM = TimestepPlan()


def plan_timesteps(choice: str, schedule: NoiseSchedule, stages: int) -> TimestepPlan:
    """The plan of one of `CHOICES`.

    Args:
        choice: its name.
        schedule: the noise levels of the timesteps, and what the model predicts.
        stages: T, at most 1000.
    """
    of_stages = stage_shares(stages)
    if choice == "balanced":
        return TimestepPlan(np.cumsum(of_stages), even=True)
    if choice == "style_friendly":
        return TimestepPlan(np.cumsum((1 - STAGES_SHARE) * style_shares(schedule) + STAGES_SHARE * of_stages))
    if choice == "min_snr":
        return TimestepPlan(weights=min_snr_weights(schedule))
    return UNIFORM


def stage_shares(stages: int) -> np.ndarray:
    """Each timestep's share of the samples if all stages have equal shares, float64[1000]; they add up to 1.

    They are all alike up to rounding: of six stages some have 166 and some 167 timesteps.
    """
    stage = stage_of(np.arange(TRAIN_TIMESTEPS), stages)
    return 1 / (stages * np.bincount(stage)[stage])


def style_shares(schedule: NoiseSchedule) -> np.ndarray:
    """Each timestep's share if the log-SNR is normal around a low mean (Choi et al. 2024), float64[1000].

    A timestep stands for the log-SNRs, ``log(alpha_t^2 / sigma_t^2)``, between it and its neighbours: the limits are at
    the mean alpha-bar of both. The paper's models reach pure noise. Others do not (Stable Diffusion 1.5 ends at a
    log-SNR of -5.4); of their distribution the part that there are timesteps for is taken.
    """
    alpha_bar = schedule.alphas_cumprod
    inner = (alpha_bar[:-1] + alpha_bar[1:]) / 2
    last = max(alpha_bar[-1] - (inner[-1] - alpha_bar[-1]), 0.0)
    limits = np.concatenate([[1.0], inner, [last]])
    with np.errstate(divide="ignore"):  # the log-SNR of pure signal and of pure noise
        log_snr = np.log(limits) - np.log1p(-limits)
    shares = -np.diff([STYLE_LOG_SNR.cdf(limit) for limit in log_snr])
    return shares / shares.sum()


def min_snr_weights(schedule: NoiseSchedule) -> np.ndarray:
    """The weight of the loss at each timestep, float64[1000]: Min-SNR-gamma (Hang et al. 2023).

    The loss of x_0 counts ``min(SNR, gamma)`` times, which is ``min(SNR, gamma) / SNR`` for that of the noise, and
    ``min(SNR, gamma) / (SNR + 1)`` for that of the velocity.
    """
    alpha_bar = schedule.alphas_cumprod
    snr = alpha_bar / (1 - alpha_bar)
    return np.minimum(snr, GAMMA) / (snr if schedule.prediction_type == "epsilon" else snr + 1)


def draw_timesteps(plan: TimestepPlan, key: jax.Array, size: int) -> jax.Array:
    """Timesteps for a batch, int32[size], stratified: the i-th is in the i-th of ``size`` parts of equal share."""
    import jax
    import jax.numpy as jnp

    offset = jax.random.uniform(key, (1 if plan.even else size,))
    position = (jnp.arange(size) + offset) / size
    if plan.cumulative is None:
        timesteps = (position * TRAIN_TIMESTEPS).astype(jnp.int32)
    else:
        timesteps = jnp.searchsorted(jnp.asarray(plan.cumulative, jnp.float32), position, side="right")
    return jnp.minimum(timesteps, TRAIN_TIMESTEPS - 1).astype(jnp.int32)
