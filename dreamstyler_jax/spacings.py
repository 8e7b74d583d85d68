"""At which timesteps and noise levels a solver evaluates the model.

A spacing of timesteps takes whole timesteps and their noise levels. A spacing of noise levels ("sigmas") says how
sigma / alpha falls, and takes the timesteps that lie nearest.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dreamstyler_jax.noise_levels import LEAST_ALPHA_BAR
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.schedule import TRAIN_TIMESTEPS, NoiseSchedule

DISTILLED = "distilled"  # the spacing of models that are distilled at these timesteps
_DISTILLED_AT = np.arange(50, 0, -1) * (TRAIN_TIMESTEPS // 50) - 1
# Sabour et al. 2024 ("Align Your Steps"): the noise levels of ten steps and, last, the end of the tenth, and the
# timesteps that the authors name for them.
_AYS_LEVELS = {
    "ays_sd": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "ays_sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}
_AYS_TIMESTEPS = {
    "ays_sd": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0),
    "ays_sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0),
}


class Points(NamedTuple):
    """Where a solver evaluates the model.

    Attributes:
        timesteps: falling, int64[N], or float64[N] where they lie between those of the training.
        sigma: the noise over the signal at each, float64[N].
    """

    timesteps: np.ndarray
    sigma: np.ndarray


def whole_timesteps(solver: str, schedule: NoiseSchedule, steps: int, spacing: str, extra_points: int) -> np.ndarray:
    """The timesteps of a spacing, int64[steps], strictly falling.

    The expressions are those of diffusers, because they decide how ties round.

    Args:
        solver: its name, for errors.
        schedule: its ``steps_offset`` counts under ``"leading"``.
        steps: their number.
        spacing: one of `schedule.SPACINGS`, or `DISTILLED`.
        extra_points: points by which the spacing divides the range further without visiting them.

    Raises:
        UserError: there are not so many.
    """
    points = steps + extra_points
    if spacing == DISTILLED:
        if steps > len(_DISTILLED_AT):
            raise UserError(f"steps: {solver} takes at most {len(_DISTILLED_AT)}, not {steps}")
        return _DISTILLED_AT[np.linspace(0, len(_DISTILLED_AT), steps, endpoint=False).astype(int)]
    if spacing == "linspace":
        timesteps = np.linspace(0 if points > 1 else TRAIN_TIMESTEPS - 1, TRAIN_TIMESTEPS - 1, points).round()[::-1]
    elif spacing == "leading":
        timesteps = np.arange(points)[::-1] * (TRAIN_TIMESTEPS // points) + schedule.steps_offset
    else:
        timesteps = np.arange(TRAIN_TIMESTEPS, 0, -TRAIN_TIMESTEPS / steps).round() - 1
    timesteps = timesteps[:steps].astype(np.int64)  # for certain numbers of steps np.arange returns one too many
    if timesteps[0] >= TRAIN_TIMESTEPS or (np.diff(timesteps) >= 0).any():
        raise UserError(
            f"{spacing} spacing has no {steps} timesteps for {solver}: take fewer steps, or --spacing trailing"
        )
    return timesteps


def between_timesteps(sigmas: str, schedule: NoiseSchedule, timesteps: np.ndarray) -> Points:
    """A spacing of noise levels as Euler takes it: between those of its first and last timestep.

    Args:
        sigmas: ``"karras"``, ``"exponential"``, ``"beta"``, ``"ays_sd"`` or ``"ays_sdxl"``.
        schedule: the noise schedule.
        timesteps: those of the solver without it, int64[N].

    Returns:
        N points, mostly between timesteps of the training.
    """
    levels = _training_sigmas(schedule)
    if sigmas in _AYS_LEVELS:
        sigma = _align_your_steps(_AYS_LEVELS[sigmas], len(timesteps))
    else:
        sigma = _spaced(sigmas, float(levels[timesteps[0]]), float(levels[timesteps[-1]]), len(timesteps))
    return Points(_timesteps_at(sigma, levels), sigma)


def at_timesteps(sigmas: str, schedule: NoiseSchedule, timesteps: np.ndarray) -> Points:
    """A spacing of noise levels as the multistep solvers take it: over all levels of the training.

    The model sees whole timesteps, rounded with Karras' spacing and cut off with others, while the latents have the
    exact levels. "Align Your Steps" goes by the timesteps of its table, and the latents have their levels. All of this
    as in diffusers.

    Args:
        sigmas, schedule, timesteps: as of `between_timesteps`.
    """
    levels = _training_sigmas(schedule)
    if sigmas in _AYS_TIMESTEPS:
        sigma = _align_your_steps(levels[list(_AYS_TIMESTEPS[sigmas])], len(timesteps))
        nearest = _timesteps_at(sigma, levels).round().astype(np.int64)
        return Points(nearest, levels[nearest].astype(np.float64))
    sigma = _spaced(sigmas, float(levels[-1]), float(levels[0]), len(timesteps))
    exact = _timesteps_at(sigma, levels)
    return Points((exact.round() if sigmas == "karras" else exact).astype(np.int64), sigma)


def _training_sigmas(schedule: NoiseSchedule) -> np.ndarray:
    """sigma / alpha at each timestep of the training: float32[1000], rising.

    The precision is that of diffusers: it decides to which side timesteps fall that lie close to a whole one.
    """
    alpha_bar = np.where(schedule.alphas_cumprod > 0.0, schedule.alphas_cumprod, LEAST_ALPHA_BAR).astype(np.float32)
    return ((1 - alpha_bar) / alpha_bar) ** np.float32(0.5)


def _timesteps_at(sigma: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The timesteps at which the noise has these levels, log-linear between those of the training: float64[N]."""
    return np.interp(np.log(sigma), np.log(levels), np.arange(len(levels)))


def _spaced(sigmas: str, highest: float, lowest: float, steps: int) -> np.ndarray:
    """``steps`` falling noise levels, float64."""
    return _SPACED[sigmas](highest, lowest, np.linspace(0.0, 1.0, steps))


def _align_your_steps(table: Sequence[float] | np.ndarray, steps: int) -> np.ndarray:
    """The table's levels for another number of steps, log-linear between them, as its authors say."""
    position = np.linspace(0.0, 1.0, steps + 1)[:-1]
    return np.exp(np.interp(position, np.linspace(0.0, 1.0, len(table)), np.log(table)))


def _karras(highest: float, lowest: float, position: np.ndarray) -> np.ndarray:
    """Karras et al. 2022, Eq. 5, with rho = 7."""
    start, end = highest ** (1 / 7), lowest ** (1 / 7)
    return (start + position * (end - start)) ** 7


def _exponential(highest: float, lowest: float, position: np.ndarray) -> np.ndarray:
    """Equal steps of log sigma."""
    return np.exp(np.log(highest) + position * (np.log(lowest) - np.log(highest)))


def _beta(highest: float, lowest: float, position: np.ndarray) -> np.ndarray:
    """Quantiles of the beta distribution with a = b = 0.6 (Lee et al. 2024): many steps at both ends."""
    from scipy import special  # takes long to import, and commands read the names of solvers

    return lowest + special.betaincinv(0.6, 0.6, 1.0 - position) * (highest - lowest)


_SPACED: dict[str, Callable[[float, float, np.ndarray], np.ndarray]] = {
    "karras": _karras,
    "exponential": _exponential,
    "beta": _beta,
}
