"""Between which noise levels a solver steps, how much fresh noise it adds, and what its initial noise is scaled by."""

from typing import NamedTuple

import numpy as np

from dreamstyler_jax.stable_diffusion.schedule import TRAIN_TIMESTEPS, NoiseSchedule

# Stands for alpha-bar = 0, whose lambda is -inf; diffusers uses the same number.
LEAST_ALPHA_BAR = 2.0**-24


class Levels(NamedTuple):
    """What the fresh noise of a solver depends on, for each of N rows.

    Attributes:
        schedule: the noise schedule.
        timesteps: int64[N].
        alpha_bar, next_alpha_bar: the levels at the start and at the end of the step, float64[N].
    """

    schedule: NoiseSchedule
    timesteps: np.ndarray
    alpha_bar: np.ndarray
    next_alpha_bar: np.ndarray


def next_levels(schedule: NoiseSchedule, timesteps: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """alpha-bar at each timestep and at the next one, the last step going to alpha-bar = 1: float64[N] each."""
    del steps
    alpha_bar = np.where(schedule.alphas_cumprod > 0.0, schedule.alphas_cumprod, LEAST_ALPHA_BAR)
    return alpha_bar[timesteps], np.append(alpha_bar[timesteps[1:]], 1.0)


def strided_levels(schedule: NoiseSchedule, timesteps: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """alpha-bar at each timestep and a fixed stride further, as DDIM steps: float64[N] each.

    Under ``"linspace"`` the stride is not quite the distance to the next timestep.
    """
    alpha_bar = schedule.alphas_cumprod
    following = timesteps - TRAIN_TIMESTEPS // steps
    last = 1.0 if schedule.set_alpha_to_one else alpha_bar[0]
    return alpha_bar[timesteps], np.where(following >= 0, alpha_bar[following], last)


def lowest_level(schedule: NoiseSchedule, timesteps: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Like `next_levels`, but the last step goes to timestep 0."""
    alpha_bar, following = next_levels(schedule, timesteps, steps)
    return alpha_bar, np.append(following[:-1], schedule.alphas_cumprod[0])


def lcm_noise(levels: Levels) -> np.ndarray:
    """The fresh noise of LCM's steps (Luo et al. 2023, Algorithm 3): each goes to x_0 and noises it anew.

    The model's boundary condition, by which 7e-6 of the latents at the lowest timestep, 19, stay, is left out.
    """
    return np.sqrt(1.0 - levels.next_alpha_bar)


def tcd_noise(levels: Levels) -> np.ndarray:
    """The fresh noise of TCD's steps (Zheng et al. 2024, Algorithm 2, gamma = 0.3).

    Each goes down without it to 0.7 of the next timestep, and noises the latents from there up to the next.
    """
    lower = levels.schedule.alphas_cumprod[(0.7 * np.append(levels.timesteps[1:], 0)).astype(int)]
    return np.sqrt(1.0 - levels.next_alpha_bar / lower)


def ancestral_noise(levels: Levels) -> np.ndarray:
    """The fresh noise of Euler's ancestral steps, as much as the diffusion itself adds between the two levels."""
    sigma, next_sigma = (np.sqrt((1.0 - a) / a) for a in (levels.alpha_bar, levels.next_alpha_bar))
    return np.sqrt(levels.next_alpha_bar) * next_sigma * np.sqrt(1.0 - (next_sigma / sigma) ** 2)


def unit_scale(sigma: float, spacing: str) -> float:
    """Starts from standard normal noise."""
    del sigma, spacing
    return 1.0


def first_level_scale(sigma: float, spacing: str) -> float:
    """Starts from noise at the level ``sigma`` of the first timestep, except under ``"leading"`` spacing."""
    return 1.0 if spacing == "leading" else sigma
