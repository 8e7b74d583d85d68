"""Properties of the solvers' tables."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.solvers import SOLVERS, solver_start, solver_step, solver_table
from dreamstyler_jax.stable_diffusion.schedule import PREDICTION_TYPES, SPACINGS, NoiseSchedule, add_noise, target

MULTISTEP = ("dpmpp_2m", "unipc")

DETERMINISTIC = [name for name, solver in SOLVERS.items() if not solver.noise]
STOCHASTIC = [name for name, solver in SOLVERS.items() if solver.noise]
names = st.sampled_from(DETERMINISTIC)
spacings = st.sampled_from(SPACINGS)
strengths = st.floats(0.3, 1.0)
schedules = st.builds(NoiseSchedule, prediction_type=st.sampled_from(PREDICTION_TYPES), set_alpha_to_one=st.booleans())


def normal(shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def rates(alpha_bar):
    return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


@partial(jax.jit, static_argnums=0)
def trajectory(denoise, table, x_T):
    """The latents after every step, [N, ...]; denoise: (x, t) -> model output."""

    def body(state, row):
        t, coefficients = row
        state = solver_step(state, coefficients, denoise(state.x, t))
        return state, state.x

    return jax.lax.scan(body, solver_start(x_T), (table.timesteps, table.coefficients))[1]


@given(names, spacings, schedules, st.integers(4, 998), strengths)
def test_table_is_well_formed(name, spacing, schedule, steps, strength):
    table = solver_table(name, schedule, steps, spacing, strength)
    kept = int(steps * strength)
    assert table.timesteps.dtype == np.int32
    assert table.coefficients.dtype == np.float32
    assert table.timesteps.shape == (kept,)
    assert table.coefficients.shape == (kept, 6)
    assert (np.diff(table.timesteps) < 0).all()
    assert 0 <= table.timesteps[-1] <= table.timesteps[0] < 1000
    assert np.isfinite(table.coefficients).all()
    assert 0 < table.init_scale <= 1


@pytest.mark.parametrize("steps", [1, 2, 3, 1000])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_fewest_and_the_most_steps(name, steps):
    table = solver_table(name, NoiseSchedule(), steps, "trailing")
    assert table.timesteps[0] == 999
    assert np.isfinite(table.coefficients).all()


@given(names, spacings, schedules, st.integers(4, 100), strengths)
def test_each_row_moves_signal_and_noise_to_its_next_level(name, spacing, schedule, steps, strength):
    """On x = alpha x_0 + sigma eps with constant x_0 and eps a step is exact: its weights carry (alpha, sigma) over."""
    table = solver_table(name, schedule, steps, spacing, strength)
    a, b, c, *k = table.coefficients.astype(np.float64).T
    alpha, sigma = rates(schedule.alphas_cumprod[table.timesteps])
    out_alpha, out_sigma = (0, 1) if schedule.prediction_type == "epsilon" else (-sigma, alpha)
    np.testing.assert_allclose(a * alpha + b * out_alpha, 1, atol=1e-4)
    np.testing.assert_allclose(a * sigma + b * out_sigma, 0, atol=1e-4)
    following, last = np.append(table.timesteps[1:], -1), 1.0
    if name == "ddim":
        following = table.timesteps - 1000 // steps
        last = 1.0 if schedule.set_alpha_to_one else schedule.alphas_cumprod[0]
    next_alpha, next_sigma = rates(np.where(following < 0, last, schedule.alphas_cumprod[following]))
    np.testing.assert_allclose(c * alpha + sum(k), next_alpha, atol=1e-5)
    np.testing.assert_allclose(c * sigma, next_sigma, atol=1e-5)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [1, 4, 8, 50])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_fresh_noise_replaces_noise_that_was_taken_out(name, steps, prediction_type):
    """The signal is carried over as by a solver without, and old and fresh noise together are the next level's."""
    schedule = NoiseSchedule(prediction_type=prediction_type)
    table = solver_table(name, schedule, steps, "trailing")
    _, _, c, *k = table.coefficients.astype(np.float64).T
    alpha, sigma = rates(schedule.alphas_cumprod[table.timesteps])
    last = schedule.alphas_cumprod[0] if name == "tcd" else 1.0
    next_alpha, next_sigma = rates(np.append(schedule.alphas_cumprod[table.timesteps[1:]], last))
    np.testing.assert_allclose(c * alpha + sum(k), next_alpha, atol=1e-5)
    np.testing.assert_allclose((c * sigma) ** 2 + table.noise**2, next_sigma**2, atol=1e-5)
    assert (table.noise[:-1] > 0).all() and table.noise[-1] == 0


@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_distilled_models_are_asked_at_the_timesteps_of_their_training(name):
    for spacing in SPACINGS:
        assert solver_table(name, NoiseSchedule(), 4, spacing).timesteps.tolist() == [999, 759, 499, 259]
    with pytest.raises(UserError, match=f"steps: {name} takes at most 50, not 51"):
        solver_table(name, NoiseSchedule(), 51)


@given(names, spacings, st.integers(4, 100), strengths)
def test_the_first_rows_use_no_history(name, spacing, steps, strength):
    coefficients = solver_table(name, NoiseSchedule(), steps, spacing, strength).coefficients
    assert (coefficients[0, 4:] == 0).all()
    assert (coefficients[1:2, 5:] == 0).all()


PICTURE, NOISE = normal((2, 1, 4, 4, 4))


@cache  # one function, one compilation
def perfect_denoiser(prediction_type):
    schedule = NoiseSchedule(prediction_type=prediction_type)
    alpha, sigma = (jnp.asarray(rate, jnp.float32) for rate in rates(schedule.alphas_cumprod))
    return lambda x, t: target(schedule, PICTURE, (x - alpha[t] * PICTURE) / sigma[t], t)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_perfect_denoiser_leads_to_the_picture(name, spacing, prediction_type):
    schedule = NoiseSchedule(prediction_type=prediction_type, set_alpha_to_one=True)
    table = solver_table(name, schedule, 5, spacing)
    latents = trajectory(perfect_denoiser(prediction_type), table, table.init_scale * NOISE)
    np.testing.assert_allclose(latents[-1], PICTURE, atol=2e-5)


def test_strength_sets_where_to_start_not_where_to_arrive():
    schedule = NoiseSchedule()
    table = solver_table("unipc", schedule, 10, strength=0.5)
    start = add_noise(schedule, PICTURE, NOISE, table.timesteps[0])
    np.testing.assert_allclose(trajectory(perfect_denoiser("epsilon"), table, start)[-1], PICTURE, atol=2e-5)


@pytest.mark.parametrize("name", MULTISTEP)
def test_a_later_start_is_like_a_shorter_run(name):
    """Half the strength under trailing spacing: first row of first order, all rows after the third as before."""
    full = solver_table(name, NoiseSchedule(), 20, "trailing").coefficients
    half = solver_table(name, NoiseSchedule(), 20, "trailing", strength=0.5).coefficients
    np.testing.assert_array_equal(half[3:], full[13:])
    np.testing.assert_array_equal(half[:, :3], full[10:, :3])
    assert (half[0] != full[10]).any()


@pytest.mark.parametrize("name", ["euler", *MULTISTEP])
def test_the_last_step_returns_the_prediction_itself(name):
    """To sigma = 0 the step is h = inf: no extrapolation, no correction, x_0 as predicted."""
    for steps in (2, 3, 25):
        np.testing.assert_allclose(solver_table(name, NoiseSchedule(), steps).coefficients[-1, 2:], [0, 1, 0, 0])


def test_noise_is_scaled_to_the_first_level_by_euler_alone():
    sigma = np.sqrt(1 - NoiseSchedule().alphas_cumprod[999])
    scales = {(n, s): float(solver_table(n, NoiseSchedule(), 5, s).init_scale) for n in DETERMINISTIC for s in SPACINGS}
    for (name, spacing), scale in scales.items():
        scaled = name == "euler" and spacing != "leading"
        assert scale == pytest.approx(sigma if scaled else 1, rel=1e-6)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_tables_are_finite_where_the_first_timestep_is_pure_noise(name):
    schedule = NoiseSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert np.isfinite(solver_table(name, schedule, 10, "trailing").coefficients).all()


def wavering_epsilon(x, t):
    return jnp.tanh(x + 0.3 * jnp.sin(t))


def unipc_as_written(predict_x0, alpha, sigma, x):
    """UniPC-2 (Zhao et al. 2023, Algorithms 1 and 2, x_0-prediction) step by step: predict, evaluate, correct.

    predict_x0: (x, i) -> x_0; alpha, sigma: the rates at each timestep, float64[N]. Returns x after every step.
    """
    lam, D, latents = np.log(alpha / sigma), [], []

    def step(x, s, order, arrived=None):
        """From level s to s + 1: the predictor, or, given the prediction that was made there, the corrector."""
        h = lam[s + 1] - lam[s]
        growth = np.expm1(-h)
        nodes = [(lam[s - 1] - lam[s]) / h] if order == 2 else []
        differences = [(D[s - 1] - D[s]) / nodes[0]] if order == 2 else []
        if arrived is not None:
            nodes, differences = [*nodes, 1.0], [*differences, arrived - D[s]]
        rho = [0.5] * len(nodes)
        if len(nodes) == 2:
            phi_1 = growth / -h
            phi_2 = (phi_1 - 1.0) / -h
            phi_3 = (phi_2 - 0.5) / -h
            rho = np.linalg.solve([[1.0, 1.0], nodes], np.array([phi_2, 2.0 * phi_3]) * -h / growth)
        slope = sum(weight * difference for weight, difference in zip(rho, differences, strict=True))
        return sigma[s + 1] / sigma[s] * x - alpha[s + 1] * growth * (D[s] + slope)

    before = x
    for i in range(len(alpha)):
        prediction = predict_x0(x, i)
        if i > 0:
            x = step(before, i - 1, order=min(2, i), arrived=prediction)
        D.append(prediction)
        before = x
        x = step(x, i, order=min(2, i + 1)) if i + 1 < len(alpha) else prediction
        latents.append(x)
    return np.array(latents)


def test_unipc_in_one_formula_is_predictor_and_corrector():
    schedule = NoiseSchedule()
    table = solver_table("unipc", schedule, 8)
    alpha, sigma = rates(schedule.alphas_cumprod[table.timesteps])

    def predict_x0(x, i):
        return (x - sigma[i] * np.tanh(x + 0.3 * np.sin(table.timesteps[i]))) / alpha[i]

    ours = trajectory(wavering_epsilon, table, NOISE)
    np.testing.assert_allclose(ours, unipc_as_written(predict_x0, alpha, sigma, NOISE), rtol=1e-5, atol=1e-5)


# The probability-flow ODE of data ~ N(0, SPREAD^2) has x_t proportional to the standard deviation of x_t.
SPREAD = 0.5
MIDWAY = 499


def gaussian_epsilon(x, t):
    alpha_bar = jnp.asarray(NoiseSchedule().alphas_cumprod, jnp.float32)[t]
    sigma = jnp.sqrt(1 - alpha_bar)
    return sigma * x / (alpha_bar * SPREAD**2 + 1 - alpha_bar)


def midway_error(name, steps):
    """Relative error at timestep 499, half way and before the last step, which is of first order in every solver."""
    table = solver_table(name, NoiseSchedule(), steps, "trailing")
    half = steps // 2
    assert table.timesteps[half] == MIDWAY
    first_half = table._replace(timesteps=table.timesteps[:half], coefficients=table.coefficients[:half])
    reached = float(trajectory(gaussian_epsilon, first_half, 1.0)[-1])
    alpha_bar = NoiseSchedule().alphas_cumprod[[999, MIDWAY]]
    start, end = np.sqrt(alpha_bar * SPREAD**2 + 1 - alpha_bar)
    return abs(reached / (end / start) - 1)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("dpmpp_2m", 2), ("unipc", 3)])
def test_order_of_accuracy(name, order):
    """Twice the steps, 2^order times the accuracy."""
    coarse, fine = midway_error(name, 10), midway_error(name, 20)
    assert abs(np.log2(coarse / fine) - order) < 0.5


def test_every_solver_has_a_help_and_a_known_spacing():
    for name, solver in SOLVERS.items():
        assert solver.name == name and solver.help
        assert solver.spacing in (*SPACINGS, "distilled")


def test_the_spacing_is_the_solvers_the_schedules_or_the_callers():
    schedule = NoiseSchedule()
    trailing = NoiseSchedule(timestep_spacing="trailing")
    assert solver_table("ddim", schedule, 10).timesteps[0] == 901
    assert solver_table("dpmpp_2m", schedule, 10).timesteps[0] == 999
    assert solver_table("ddim", trailing, 10).timesteps[0] == 999
    assert solver_table("ddim", trailing, 10, "leading").timesteps[0] == 901


def test_one_step_under_linspace_starts_from_noise():
    for name in DETERMINISTIC:
        assert solver_table(name, NoiseSchedule(), 1, "linspace").timesteps.tolist() == [999]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_state_is_float32_for_any_output_of_the_model(dtype):
    row = jnp.asarray(solver_table("unipc", NoiseSchedule(), 5).coefficients)[2]
    state = solver_step(solver_start(jnp.ones((1, 2, 2, 4), dtype)), row, jnp.ones((1, 2, 2, 4), dtype))
    assert {leaf.dtype for leaf in state} == {jnp.dtype(jnp.float32)}


def test_all_solvers_with_the_same_number_of_steps_share_a_program():
    x = jnp.ones(3)
    with compilations("trajectory") as programs:
        for name in DETERMINISTIC:
            trajectory(gaussian_epsilon, solver_table(name, NoiseSchedule(), 4), x)
    assert len(programs) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "dpmpp"}, "did you mean 'dpmpp_2m'"),
        ({"name": "UniPC"}, "did you mean 'unipc'"),
        ({"spacing": "trail"}, "did you mean 'trailing'"),
        ({"steps": 0}, "steps must be in 1..1000, not 0"),
        ({"steps": 1001}, "steps must be in 1..1000"),
        ({"steps": 1000}, "fewer steps, or --spacing trailing"),
        ({"strength": 0.0}, "strength"),
        ({"strength": 1.5}, "strength"),
        ({"steps": 10, "strength": 0.05}, "at least one of 10 steps"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        solver_table(**{"name": "unipc", "schedule": NoiseSchedule(), "steps": 25} | arguments)
