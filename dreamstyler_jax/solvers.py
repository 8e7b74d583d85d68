"""Samplers as tables of numbers: DDIM, Euler, DPM-Solver++(2M) and UniPC are one linear formula.

Every solver here integrates the probability-flow ODE from the model's x_0-prediction D, and each of its steps is a
linear combination of what is at hand. With x the current latents, out the model's output at (x, t), and D_1, D_2 the
x_0-predictions of the two steps before:

    D  = a x + b out
    x <- c x + k0 D + k1 D_1 + k2 D_2

A solver is therefore a table with one row (a, b, c, k0, k1, k2) per step, made here on the host in float64, and
sampling is one ``lax.scan`` over the rows, the same program for all of them.

Symbols as in the DPM-Solver papers: x_t = alpha_t x_0 + sigma_t eps, alpha^2 + sigma^2 = 1,
lambda = log(alpha / sigma), and a step of size h = lambda_t - lambda_s goes from noise level s to t. Latents are in
these variance-preserving coordinates throughout, also Euler's, where the model takes them as they are.
"""

import difflib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.schedule import SPACINGS, TRAIN_TIMESTEPS, NoiseSchedule, x0_coefficients

# Each solver with the spacing it uses where neither the caller nor the schedule states one, as in diffusers.
_CUSTOMARY_SPACING = {"ddim": "leading", "euler": "linspace", "dpmpp_2m": "linspace", "unipc": "linspace"}
_MULTISTEP = ("dpmpp_2m", "unipc")
SOLVERS = tuple(_CUSTOMARY_SPACING)

# Stands for alpha-bar = 0, whose lambda is -inf; diffusers uses the same number.
_LEAST_ALPHA_BAR = 2.0**-24


class SolverTable(NamedTuple):
    """A solver for one number of steps N; a pytree, so it can be a traced argument: same N, same program.

    Attributes:
        timesteps: int32[N], strictly falling; the model is evaluated once at each.
        coefficients: float32[N, 6], the rows (a, b, c, k0, k1, k2) of the module's formula.
        init_scale: float32[], the factor that makes standard normal noise the latents at ``timesteps[0]``.
            To start from a picture instead, noise it with `diffusion.add_noise` to ``timesteps[0]``.
    """

    timesteps: np.ndarray
    coefficients: np.ndarray
    init_scale: np.floating


class SolverState(NamedTuple):
    """What the scan carries, all float32 and of the latents' shape.

    Attributes:
        x: the latents at the timestep of the next row; after the last row, the result.
        x0: the latest x_0-prediction (D_1 of the next step), which also makes a preview.
        x0_prev: the one before (D_2 of the next step).
    """

    x: jax.Array
    x0: jax.Array
    x0_prev: jax.Array


def solver_start(x_T: jax.Array) -> SolverState:
    """The state before the first row, with empty histories (whose coefficients are zero there).

    Args:
        x_T: latents at ``timesteps[0]``: noise times ``init_scale``, or a noised picture. Any shape.
    """
    x = jnp.asarray(x_T, jnp.float32)
    return SolverState(x, jnp.zeros_like(x), jnp.zeros_like(x))


def solver_step(state: SolverState, row: jax.Array, output: jax.Array) -> SolverState:
    """One step of any solver.

    Args:
        state: the state; ``state.x`` are the latents that the model saw.
        row: float32[6], the row of ``SolverTable.coefficients`` for this step.
        output: the model's output at (state.x, timesteps of this row), in whichever prediction type the table was
            made for; of the latents' shape, any float type.
    """
    a, b, c, k0, k1, k2 = row
    x0 = a * state.x + b * output
    x = c * state.x + k0 * x0 + k1 * state.x0 + k2 * state.x0_prev
    return SolverState(x, x0, state.x0)


def solver_table(
    name: str, schedule: NoiseSchedule, steps: int, spacing: str | None = None, strength: float = 1.0
) -> SolverTable:
    """The table of a solver, step for step that of diffusers' scheduler of this kind at its default settings.

    ``"ddim"``    DDIM, eta = 0 (Song et al. 2021a, Eq. 12): DDIMScheduler
    ``"euler"``   Euler on the probability-flow ODE (Karras et al. 2022, Algorithm 1): EulerDiscreteScheduler
    ``"dpmpp_2m"``   DPM-Solver++(2M) (Lu et al. 2022b, Algorithm 2): DPMSolverMultistepScheduler
    ``"unipc"``   UniPC-2 with B_2(h) = e^h - 1, in its x_0-prediction form (Zhao et al. 2023, Algorithms 1 and 2):
                  UniPCMultistepScheduler

    It differs from diffusers where a timestep would not be one the model was trained on: Euler's fractional timesteps
    under ``"linspace"`` are rounded, and their noise levels with them. And where DDIM or Euler take one step under
    ``"linspace"`` it is from 999, not from 0. (``"leading"`` starts lower the fewer the steps, as its definition has
    it: at 501 for two. For few steps take ``"trailing"``.)

    Args:
        name: one of `SOLVERS`.
        schedule: gives the noise levels, the prediction type and the ends of the timesteps.
        steps: model evaluations from pure noise, 1..1000.
        spacing: one of `SPACINGS`; None: the schedule's own, and where it has none the solver's custom.
        strength: in (0, 1]; below 1 only the last ``int(steps * strength)`` steps are kept, for starting from a
            noised picture (SDEdit, Meng et al. 2022). The kept rows start without a history.

    Raises:
        UserError: an unknown name or spacing, or a number that is out of range.
    """
    _check_name("solver", name, SOLVERS)
    spacing = spacing or schedule.timestep_spacing or _CUSTOMARY_SPACING[name]
    _check_name("timestep spacing", spacing, SPACINGS)
    if not 1 <= steps <= TRAIN_TIMESTEPS:
        raise UserError(f"steps must be in 1..{TRAIN_TIMESTEPS}, not {steps}")
    if not 0.0 < strength <= 1.0 or int(steps * strength) == 0:
        raise UserError(f"strength must be in (0, 1] and leave at least one of {steps} steps, not {strength}")

    kept = int(steps * strength)
    timesteps = _timesteps(name, schedule, steps, spacing)[steps - kept :]
    alpha_bar, next_alpha_bar = _noise_levels(name, schedule, timesteps, steps)
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar)
    a, b = x0_coefficients(schedule.prediction_type, alpha, sigma)
    c = np.sqrt(1.0 - next_alpha_bar) / sigma
    # DPM-Solver++'s alpha_t (1 - e^-h), in a form that holds to h = inf. With k = (gain, 0, 0) the step is DDIM's, and
    # Euler's too: Karras' x / alpha and sigma / alpha, put into its Euler step, leave the same formula.
    gain = np.sqrt(next_alpha_bar) - c * alpha
    k = np.outer(gain, [1.0, 0.0, 0.0])
    if name in _MULTISTEP:
        h = np.diff(np.log(alpha / sigma))
        k += _second_order(gain, h)
        if name == "unipc":
            k += c[:, None] * _corrector(gain, h)
    return SolverTable(
        timesteps=timesteps.astype(np.int32),
        coefficients=np.column_stack([a, b, c, k]).astype(np.float32),
        init_scale=np.float32(sigma[0] if name == "euler" and spacing != "leading" else 1.0),
    )


def steps_within(start: float, end: float, steps: int) -> np.ndarray:
    """Which of the steps taken lie wholly in a part of the sampling, 0 being its start and 1 its end: bool[steps]."""
    first, last = np.arange(steps) / steps, (np.arange(steps) + 1) / steps
    return (first >= start) & (last <= end)


def steps_apart(interval: int, steps: int) -> np.ndarray:
    """The first of the steps taken, and every ``interval``-th from there: bool[steps]."""
    return np.arange(steps) % interval == 0


def _check_name(kind: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise UserError(f"unknown {kind} {name!r}: did you mean {nearest!r}? Known are {', '.join(names)}")


def _timesteps(name: str, schedule: NoiseSchedule, steps: int, spacing: str) -> np.ndarray:
    """int64[steps] from high noise to low; expressions as in diffusers, whose rounding of ties depends on them."""
    # The multistep solvers of diffusers divide the range into one more point and do not visit the last one, t = 0.
    points = steps + 1 if name in _MULTISTEP else steps
    if spacing == "linspace":
        timesteps = np.linspace(0 if points > 1 else TRAIN_TIMESTEPS - 1, TRAIN_TIMESTEPS - 1, points).round()[::-1]
    elif spacing == "leading":
        timesteps = np.arange(points)[::-1] * (TRAIN_TIMESTEPS // points) + schedule.steps_offset
    else:
        timesteps = np.arange(TRAIN_TIMESTEPS, 0, -TRAIN_TIMESTEPS / steps).round() - 1
    timesteps = timesteps[:steps].astype(np.int64)  # for some numbers of steps np.arange returns one too many
    if timesteps[0] >= TRAIN_TIMESTEPS or (np.diff(timesteps) >= 0).any():
        raise UserError(f"{spacing} spacing has no {steps} timesteps for {name}: take fewer steps, or trailing spacing")
    return timesteps


def _noise_levels(
    name: str, schedule: NoiseSchedule, timesteps: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """alpha-bar at each timestep and at the level to which its step goes: float64[N] each."""
    alpha_bar = schedule.alphas_cumprod
    if name == "ddim":
        # A fixed stride, which under linspace is not quite the distance to the next timestep.
        following = timesteps - TRAIN_TIMESTEPS // steps
        last = 1.0 if schedule.set_alpha_to_one else alpha_bar[0]
        return alpha_bar[timesteps], np.where(following >= 0, alpha_bar[following], last)
    alpha_bar = np.where(alpha_bar > 0.0, alpha_bar, _LEAST_ALPHA_BAR)
    return alpha_bar[timesteps], np.append(alpha_bar[timesteps[1:]], 1.0)


def _second_order(gain: np.ndarray, h: np.ndarray) -> np.ndarray:
    """What DPM-Solver++(2M), and likewise UniP-2, adds to the first order: ``gain D -> gain [D + (D - D_1) / 2r]``.

    r = h_{i-1} / h_i. The first row has no history; the last goes to h = inf, where the second order does not hold.

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
    """UniC's correction of the latents a row begins with: ``x <- x + weights . (D, D_1, D_2)`` before its own step.

    The corrector repeats the step that led here with the new D in the formula. Predictor and corrector share the term
    in the latents of the row before, so their difference is one of x_0-predictions alone:

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
