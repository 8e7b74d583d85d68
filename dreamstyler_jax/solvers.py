"""Solvers as tables of numbers: DDIM, Euler, DPM-Solver++(2M), UniPC, LCM and their like are one linear formula.

Every solver here integrates the probability-flow ODE from the model's x_0-prediction D, and each of its steps is a
linear combination of arrays that are already there. With x the current latents, out the model's output at (x, t), and
D_1, D_2 the x_0-predictions of the two steps before:

    D  = a x + b out
    x <- c x + k0 D + k1 D_1 + k2 D_2

Stochastic solvers take out more noise than a step needs and add fresh noise z instead, + n z, in a column of its own.

A solver is therefore a table with one row (a, b, c, k0, k1, k2) per step, computed on the host in float64. Sampling is
one ``lax.scan`` over the rows, the same program for all solvers. A new solver is a function for (k0, k1, k2), in
`step_weights`, and a line in `SOLVERS`.

Symbols as in the DPM-Solver papers: x_t = alpha_t x_0 + sigma_t eps, alpha^2 + sigma^2 = 1,
lambda = log(alpha / sigma), and a step of size h = lambda_t - lambda_s goes from noise level s to t. Latents are in
these variance-preserving coordinates throughout, with Euler as well; the model takes them as they are.

Commands read the names of the solvers before they import JAX, so `solver_start` imports it itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dreamstyler_jax.noise_levels import (
    Levels,
    ancestral_noise,
    first_level_scale,
    lcm_noise,
    lowest_level,
    next_levels,
    strided_levels,
    tcd_noise,
    unit_scale,
)
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.spacings import DISTILLED, Points, at_timesteps, between_timesteps, whole_timesteps
from dreamstyler_jax.stable_diffusion.schedule import (
    NORMAL_SIGMAS,
    SPACINGS,
    TRAIN_TIMESTEPS,
    NoiseSchedule,
    x0_coefficients,
)
from dreamstyler_jax.step_weights import Rows, dpmpp_2m, first_order, unipc

if TYPE_CHECKING:
    import jax

AUTO_SPACING = "auto"  # the noise schedule's own spacing or, if it has none, the solver's
AUTO_SIGMAS = "auto"  # the noise schedule's own, for solvers that take it
SIGMAS = (AUTO_SIGMAS, NORMAL_SIGMAS, "karras", "exponential", "beta", "ays")


class SolverTable(NamedTuple):
    """A solver for one number of steps N. A pytree, so it can be a traced argument: same N, same program.

    Attributes:
        timesteps: [N], falling; the model is evaluated once at each. int32, or float32 where they lie between those
            of the training.
        coefficients: float32[N, 6], the rows (a, b, c, k0, k1, k2) of the module's formula.
        init_scale: float32[], the factor that turns standard normal noise into the latents at ``timesteps[0]``.
        start_rates: float32[2], the signal and the noise rate of a picture to start from instead.
        noise: float32[N], the factor n of the fresh noise; None for a solver without.
    """

    timesteps: np.ndarray
    coefficients: np.ndarray
    init_scale: np.floating
    start_rates: np.ndarray
    noise: np.ndarray | None = None


class SolverState(NamedTuple):
    """The carry of the scan: three arrays in float32, of the latents' shape.

    Attributes:
        x: the latents at the timestep of the next row; after the last row, the result.
        x0: the latest x_0-prediction (D_1 of the next step), which also serves as a preview.
        x0_prev: the one before (D_2 of the next step).
    """

    x: jax.Array
    x0: jax.Array
    x0_prev: jax.Array


class Solver(NamedTuple):
    """How the table of a solver is made.

    Attributes:
        name: its name on the command line.
        help: its full name, and what sets it apart.
        spacing: the timestep spacing if neither the caller nor the schedule states one, as in diffusers.
        weights: the function from `Rows` to the weights (k0, k1, k2) of all rows, float64[N, 3].
        levels: the function ``(schedule, timesteps, steps)`` to alpha-bar at the start and at the end of each step.
        init_scale: the function ``(sigma of the first timestep, spacing)`` to the factor of the initial noise.
        extra_points: points by which the spacing divides the range further without visiting them. The multistep
            solvers of diffusers have one, t = 0.
        noise: the function to the factor n of the fresh noise of each row, float64[N]; None without.
        points: the function ``(sigmas, schedule, timesteps)`` to the points of a spacing of noise levels; None for a
            solver that has its own.
    """

    name: str
    help: str
    spacing: str
    weights: Callable[[Rows], np.ndarray]
    levels: Callable[[NoiseSchedule, np.ndarray, int], tuple[np.ndarray, np.ndarray]] = next_levels
    init_scale: Callable[[float, str], float] = unit_scale
    extra_points: int = 0
    noise: Callable[[Levels], np.ndarray] | None = None
    points: Callable[[str, NoiseSchedule, np.ndarray], Points] | None = None


SOLVERS = {
    solver.name: solver
    for solver in (
        Solver("ddim", "DDIM", "leading", first_order, levels=strided_levels),
        Solver("euler", "Euler", "linspace", first_order, init_scale=first_level_scale, points=between_timesteps),
        Solver("dpmpp_2m", "DPM-Solver++(2M), second order", "linspace", dpmpp_2m, extra_points=1, points=at_timesteps),
        Solver("unipc", "UniPC, a predictor with a corrector", "linspace", unipc, extra_points=1, points=at_timesteps),
        Solver(
            "euler_a",
            "Euler with fresh noise",
            "linspace",
            first_order,
            init_scale=first_level_scale,
            noise=ancestral_noise,
            points=between_timesteps,
        ),
        Solver("lcm", "for models and LoRAs distilled as LCM", DISTILLED, first_order, noise=lcm_noise),
        Solver("tcd", "for those distilled as TCD", DISTILLED, first_order, lowest_level, noise=tcd_noise),
    )
}


def solver_start(x_T: jax.Array) -> SolverState:
    """The state before the first row, with empty histories; their coefficients are zero in that row.

    Args:
        x_T: latents at ``timesteps[0]``: noise times ``init_scale``, or a noised picture. Any shape.
    """
    import jax.numpy as jnp

    x = jnp.asarray(x_T, jnp.float32)
    return SolverState(x, jnp.zeros_like(x), jnp.zeros_like(x))


def solver_step(state: SolverState, row: jax.Array, output: jax.Array, noise: jax.Array | None = None) -> SolverState:
    """One step of any solver.

    Args:
        state: the state; the model saw the latents ``state.x``.
        row: float32[6], the row of ``SolverTable.coefficients`` for this step.
        output: the model's output at ``state.x`` and the timestep of this row, of the prediction type that the table
            is for; of the latents' shape, any float type.
        noise: the fresh noise times its factor, of a solver that adds some.
    """
    a, b, c, k0, k1, k2 = row
    x0 = a * state.x + b * output
    x = c * state.x + k0 * x0 + k1 * state.x0 + k2 * state.x0_prev
    if noise is not None:
        x = x + noise
    return SolverState(x, x0, state.x0)


def solver_table(
    name: str,
    schedule: NoiseSchedule,
    steps: int,
    spacing: str = AUTO_SPACING,
    strength: float = 1.0,
    sigmas: str = NORMAL_SIGMAS,
) -> SolverTable:
    """The table of a solver. It equals, step for step, diffusers' scheduler of this kind at its default settings.

    ``"ddim"`` is DDIMScheduler, ``"euler"`` EulerDiscreteScheduler, ``"dpmpp_2m"`` DPMSolverMultistepScheduler,
    ``"unipc"`` UniPCMultistepScheduler, ``"euler_a"`` EulerAncestralDiscreteScheduler, ``"lcm"`` LCMScheduler and
    ``"tcd"`` TCDScheduler.

    It differs from diffusers where a timestep would not be one the model was trained on: Euler's fractional timesteps
    under ``"linspace"`` are rounded, and their noise levels with them. And a single step of DDIM or Euler under
    ``"linspace"`` starts at 999, not at 0. (``"leading"`` by definition starts lower the fewer the steps: at 501 for
    two. For few steps use ``"trailing"``.)

    Args:
        name: one of `SOLVERS`.
        schedule: gives the noise levels, the prediction type and the ends of the timesteps.
        steps: model evaluations from pure noise, 1..1000.
        spacing: one of `SPACINGS`, or ``"auto"``: the schedule's, or, if it has none, the solver's. ``"lcm"`` and
            ``"tcd"`` always take theirs: the 50 timesteps that such models are distilled at.
        strength: in (0, 1]; below 1 only the last ``int(steps * strength)`` steps are kept, for starting from a
            noised picture (SDEdit, Meng et al. 2022). The kept rows start without a history.
        sigmas: how the noise levels are spaced, from `sigmas_in_effect`.

    Raises:
        UserError: an unknown name or spacing, or a number that is out of range.
    """
    _check_name("solver", name, SOLVERS)
    solver = SOLVERS[name]
    spacing = _spacing_in_effect(spacing, solver, schedule)
    if not 1 <= steps <= TRAIN_TIMESTEPS:
        raise UserError(f"steps must be in 1..{TRAIN_TIMESTEPS}, not {steps}")
    if not 0.0 < strength <= 1.0 or int(steps * strength) == 0:
        raise UserError(f"strength must be in (0, 1] and leave at least one of {steps} steps, not {strength}")

    timesteps = whole_timesteps(name, schedule, steps, spacing, solver.extra_points)
    levels, start = _visited(solver, schedule, timesteps, sigmas, kept=int(steps * strength))
    timesteps, alpha_bar, next_alpha_bar = levels.timesteps, levels.alpha_bar, levels.next_alpha_bar
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar)
    a, b = x0_coefficients(schedule.prediction_type, alpha, sigma)
    noise = solver.noise(levels) if solver.noise else 0.0
    c = np.sqrt(np.maximum(1.0 - next_alpha_bar - np.square(noise), 0.0)) / sigma
    # DPM-Solver++'s alpha_t (1 - e^-h), in a form that also holds at h = inf.
    gain = np.sqrt(next_alpha_bar) - c * alpha
    k = solver.weights(Rows(alpha, sigma, c, gain))
    return SolverTable(
        timesteps=timesteps.astype(np.int32 if timesteps.dtype.kind == "i" else np.float32),
        coefficients=np.column_stack([a, b, c, k]).astype(np.float32),
        init_scale=np.float32(solver.init_scale(sigma[0], spacing)),
        start_rates=np.sqrt([start, 1.0 - start]).astype(np.float32),
        noise=np.asarray(noise, np.float32) if solver.noise else None,
    )


def _visited(
    solver: Solver, schedule: NoiseSchedule, timesteps: np.ndarray, sigmas: str, kept: int
) -> tuple[Levels, float]:
    """The last ``kept`` of the noise levels that a solver visits, and alpha_bar of a picture to start from."""
    steps, last = len(timesteps), slice(len(timesteps) - kept, None)
    if sigmas == NORMAL_SIGMAS or solver.points is None:
        timesteps = timesteps[last]
        alpha_bar, next_alpha_bar = solver.levels(schedule, timesteps, steps)
        return Levels(schedule, timesteps, alpha_bar, next_alpha_bar), float(schedule.alphas_cumprod[timesteps[0]])
    timesteps, levels = (values[last] for values in solver.points(sigmas, schedule, timesteps))
    alpha_bar = 1.0 / (1.0 + levels**2)
    return Levels(schedule, timesteps, alpha_bar, np.append(alpha_bar[1:], 1.0)), float(alpha_bar[0])


def sigmas_in_effect(sigmas: str, name: str, schedule: NoiseSchedule, sdxl: bool) -> str:
    """How a solver spaces its noise levels.

    Args:
        sigmas: one of `SIGMAS`.
        name: one of `SOLVERS`.
        schedule: its own spacing is that of ``"auto"``.
        sdxl: whether the model is SDXL, for which "Align Your Steps" has other levels.

    Returns:
        What `solver_table` takes: ``"normal"``, for the levels of the timesteps, or one of `spacings`.

    Raises:
        UserError: the solver has no such spacing.
    """
    _check_name("spacing of noise levels", sigmas, SIGMAS)
    _check_name("solver", name, SOLVERS)
    if SOLVERS[name].points is None:
        if sigmas not in (AUTO_SIGMAS, NORMAL_SIGMAS):
            takers = ", ".join(solver.name for solver in SOLVERS.values() if solver.points)
            raise UserError(f"sigmas: {name} has no {sigmas} spacing of its noise levels; these solvers do: {takers}")
        return NORMAL_SIGMAS
    if sigmas == "ays":
        return "ays_sdxl" if sdxl else "ays_sd"
    return schedule.sigmas if sigmas == AUTO_SIGMAS else sigmas


def steps_within(start: float, end: float, steps: int) -> np.ndarray:
    """Which of the steps lie entirely within a part of the sampling, from 0 (its start) to 1 (its end): bool[steps]."""
    first, last = np.arange(steps) / steps, (np.arange(steps) + 1) / steps
    return (first >= start) & (last <= end)


def steps_apart(interval: int, steps: int) -> np.ndarray:
    """The first step and every ``interval``-th after it: bool[steps]."""
    return np.arange(steps) % interval == 0


def _spacing_in_effect(spacing: str, solver: Solver, schedule: NoiseSchedule) -> str:
    if spacing == AUTO_SPACING:
        spacing = schedule.timestep_spacing or solver.spacing
    _check_name("timestep spacing", spacing, (*SPACINGS, solver.spacing))
    return DISTILLED if solver.spacing == DISTILLED else spacing


def _check_name(kind: str, name: str, names: Iterable[str]) -> None:
    names = list(names)
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise UserError(f"unknown {kind} {name!r}: did you mean {nearest!r}? Known are {', '.join(names)}")
