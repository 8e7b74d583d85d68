"""Solvers as tables of numbers: DDIM, Euler, DPM-Solver++(2M), UniPC, LCM and their like are one linear formula.

Every solver here integrates the probability-flow ODE from the model's x_0-prediction D, and each of its steps is a
linear combination of arrays that are already there. With x the current latents, out the model's output at (x, t), and
D_1, D_2 the x_0-predictions of the two steps before:

    D  = a x + b out
    x <- c x + k0 D + k1 D_1 + k2 D_2

Stochastic solvers take out more noise than a step needs and add fresh noise z instead, + n z, in a column of its own.

A solver is therefore a table with one row (a, b, c, k0, k1, k2) per step, computed on the host in float64. Sampling is
one ``lax.scan`` over the rows, the same program for all solvers. A new solver is a function for (k0, k1, k2) and a line
in `SOLVERS`.

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
from dreamstyler_jax.stable_diffusion.schedule import SPACINGS, TRAIN_TIMESTEPS, NoiseSchedule, x0_coefficients

if TYPE_CHECKING:
    import jax

AUTO_SPACING = "auto"  # the noise schedule's own spacing or, if it has none, the solver's
_DISTILLED = "distilled"  # the spacing of models that are distilled at these timesteps
_DISTILLED_AT = np.arange(50, 0, -1) * (TRAIN_TIMESTEPS // 50) - 1


class SolverTable(NamedTuple):
    """A solver for one number of steps N. A pytree, so it can be a traced argument: same N, same program.

    Attributes:
        timesteps: int32[N], strictly falling; the model is evaluated once at each.
        coefficients: float32[N, 6], the rows (a, b, c, k0, k1, k2) of the module's formula.
        init_scale: float32[], the factor that turns standard normal noise into the latents at ``timesteps[0]``.
            To start from a picture instead, noise it with `schedule.add_noise` to ``timesteps[0]``.
        noise: float32[N], the factor n of the fresh noise; None for a solver without.
    """

    timesteps: np.ndarray
    coefficients: np.ndarray
    init_scale: np.floating
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


class Rows(NamedTuple):
    """The quantities that the weights (k0, k1, k2) of a solver depend on, float64[N] each.

    Attributes:
        alpha, sigma: the signal and the noise rate at the timestep of each row.
        c: the factor of the latents: sigma_t / sigma_s, or less where fresh noise takes a part of sigma_t.
        gain: alpha_t - c alpha_s, the weight of the x_0-prediction in a step of first order; without fresh noise
            alpha_t (1 - e^-h).
    """

    alpha: np.ndarray
    sigma: np.ndarray
    c: np.ndarray
    gain: np.ndarray

    @property
    def h(self) -> np.ndarray:
        """Step sizes in lambda from row to row, float64[N-1]."""
        return np.diff(np.log(self.alpha / self.sigma))


def first_order(rows: Rows) -> np.ndarray:
    """Weights [N, 3] of a step of first order: DDIM's (Song et al. 2021a, Eq. 12 with eta = 0), and Euler's too.

    Karras' x / alpha and sigma / alpha, put into the Euler step (Karras et al. 2022, Algorithm 1), give the same
    formula.
    """
    return np.outer(rows.gain, [1.0, 0.0, 0.0])


def dpmpp_2m(rows: Rows) -> np.ndarray:
    """Weights [N, 3] of DPM-Solver++(2M) (Lu et al. 2022b, Algorithm 2)."""
    return first_order(rows) + _second_order(rows.gain, rows.h)


def unipc(rows: Rows) -> np.ndarray:
    """Weights [N, 3] of UniPC-2 with B_2(h) = e^h - 1 for x_0-predictions (Zhao et al. 2023, Algorithms 1 and 2)."""
    return dpmpp_2m(rows) + rows.c[:, None] * _corrector(rows.gain, rows.h)


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
    """

    name: str
    help: str
    spacing: str
    weights: Callable[[Rows], np.ndarray]
    levels: Callable[[NoiseSchedule, np.ndarray, int], tuple[np.ndarray, np.ndarray]] = next_levels
    init_scale: Callable[[float, str], float] = unit_scale
    extra_points: int = 0
    noise: Callable[[Levels], np.ndarray] | None = None


SOLVERS = {
    solver.name: solver
    for solver in (
        Solver("ddim", "DDIM", "leading", first_order, levels=strided_levels),
        Solver("euler", "Euler", "linspace", first_order, init_scale=first_level_scale),
        Solver("dpmpp_2m", "DPM-Solver++(2M), second order", "linspace", dpmpp_2m, extra_points=1),
        Solver("unipc", "UniPC, a predictor with a corrector", "linspace", unipc, extra_points=1),
        Solver(
            "euler_a",
            "Euler with fresh noise",
            "linspace",
            first_order,
            init_scale=first_level_scale,
            noise=ancestral_noise,
        ),
        Solver("lcm", "for models and LoRAs distilled as LCM", "distilled", first_order, noise=lcm_noise),
        Solver("tcd", "for those distilled as TCD", "distilled", first_order, lowest_level, noise=tcd_noise),
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
    name: str, schedule: NoiseSchedule, steps: int, spacing: str = AUTO_SPACING, strength: float = 1.0
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

    Raises:
        UserError: an unknown name or spacing, or a number that is out of range.
    """
    _check_name("solver", name, SOLVERS)
    solver = SOLVERS[name]
    if spacing == AUTO_SPACING:
        spacing = schedule.timestep_spacing or solver.spacing
    _check_name("timestep spacing", spacing, (*SPACINGS, solver.spacing))
    if solver.spacing == _DISTILLED:
        spacing = _DISTILLED
    if not 1 <= steps <= TRAIN_TIMESTEPS:
        raise UserError(f"steps must be in 1..{TRAIN_TIMESTEPS}, not {steps}")
    if not 0.0 < strength <= 1.0 or int(steps * strength) == 0:
        raise UserError(f"strength must be in (0, 1] and leave at least one of {steps} steps, not {strength}")

    kept = int(steps * strength)
    timesteps = _timesteps(solver, schedule, steps, spacing)[steps - kept :]
    alpha_bar, next_alpha_bar = solver.levels(schedule, timesteps, steps)
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar)
    a, b = x0_coefficients(schedule.prediction_type, alpha, sigma)
    noise = solver.noise(Levels(schedule, timesteps, alpha_bar, next_alpha_bar)) if solver.noise else 0.0
    c = np.sqrt(np.maximum(1.0 - next_alpha_bar - np.square(noise), 0.0)) / sigma
    # DPM-Solver++'s alpha_t (1 - e^-h), in a form that also holds at h = inf.
    gain = np.sqrt(next_alpha_bar) - c * alpha
    k = solver.weights(Rows(alpha, sigma, c, gain))
    return SolverTable(
        timesteps=timesteps.astype(np.int32),
        coefficients=np.column_stack([a, b, c, k]).astype(np.float32),
        init_scale=np.float32(solver.init_scale(sigma[0], spacing)),
        noise=np.asarray(noise, np.float32) if solver.noise else None,
    )


def steps_within(start: float, end: float, steps: int) -> np.ndarray:
    """Which of the steps lie entirely within a part of the sampling, from 0 (its start) to 1 (its end): bool[steps]."""
    first, last = np.arange(steps) / steps, (np.arange(steps) + 1) / steps
    return (first >= start) & (last <= end)


def steps_apart(interval: int, steps: int) -> np.ndarray:
    """The first step and every ``interval``-th after it: bool[steps]."""
    return np.arange(steps) % interval == 0


def _check_name(kind: str, name: str, names: Iterable[str]) -> None:
    names = list(names)
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise UserError(f"unknown {kind} {name!r}: did you mean {nearest!r}? Known are {', '.join(names)}")


def _timesteps(solver: Solver, schedule: NoiseSchedule, steps: int, spacing: str) -> np.ndarray:
    """int64[steps] from high noise to low; expressions as in diffusers, because they decide how ties round."""
    points = steps + solver.extra_points
    if spacing == _DISTILLED:
        if steps > len(_DISTILLED_AT):
            raise UserError(f"steps: {solver.name} takes at most {len(_DISTILLED_AT)}, not {steps}")
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
            f"{spacing} spacing has no {steps} timesteps for {solver.name}: take fewer steps, or --spacing trailing"
        )
    return timesteps


def _second_order(gain: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The term that DPM-Solver++(2M), and likewise UniP-2, adds to the first order.

    It turns ``gain D`` into ``gain [D + (D - D_1) / 2r]`` with r = h_{i-1} / h_i. The first row has no history; the
    last goes to h = inf, where the second order does not hold.

    Args:
        gain: alpha_t (1 - e^-h) of each step, [N].
        h: step sizes in lambda from row to row, [N-1].

    Returns:
        Weights of (D, D_1, D_2), [N, 3].
    """
    half_inverse_r = np.zeros_like(gain)
    half_inverse_r[1:-1] = 0.5 * h[1:] / h[:-1]
    return np.outer(gain * half_inverse_r, [1.0, -1.0, 0.0])


def _corrector(gain: np.ndarray, h: np.ndarray) -> np.ndarray:
    """UniC's correction of a row's latents before its step: ``x <- x + weights . (D, D_1, D_2)``.

    The corrector repeats the step that led to these latents, now with the new D in the formula. Predictor and corrector
    share the term in the latents of the row before, so their difference depends on x_0-predictions alone:

        UniP   x   = ... + gain [D_1 + 1/2  (D_2 - D_1) / r]                    (order 1: without the fraction)
        UniC   x^c = ... + gain [D_1 + rho_1 (D_2 - D_1) / r + rho_2 (D - D_1)]     (order 1: rho_2 = 1/2)

    with r = -h_{i-2} / h_{i-1}, and rho solving [[1, 1], [r, 1]] rho = (b_1, b_2), where
    b_1 = (phi_1(-h) - 1) / (e^-h - 1), b_2 = 2 (phi_2(-h) - 1/2) / (e^-h - 1). Arguments and result as in
    `_second_order`; the first row has nothing to correct.
    """
    weights = np.zeros((len(gain), 3))
    weights[1:2] = 0.5 * np.outer(gain[:1], [1.0, -1.0, 0.0])
    r, z = -h[:-1] / h[1:], -h[1:]
    phi_1 = np.expm1(z) / z
    b_1 = (phi_1 - 1.0) / np.expm1(z)
    b_2 = 2.0 * ((phi_1 - 1.0) / z - 0.5) / np.expm1(z)
    rho_1 = (b_1 - b_2) / (1.0 - r)
    rho_2 = b_1 - rho_1
    slope = (rho_1 - 0.5) / r
    weights[2:] = gain[1:-1, None] * np.column_stack([rho_2, -slope - rho_2, slope])
    return weights
