"""The noise schedule, the stages, noising and targets."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.schedule import (
    BETA_SCHEDULES,
    CONFIG_SIGMAS,
    NORMAL_SIGMAS,
    PREDICTION_TYPES,
    SPACINGS,
    TRAIN_TIMESTEPS,
    NoiseSchedule,
    add_noise,
    stage_of,
    target,
    x0_coefficients,
)

TIMESTEPS = np.arange(TRAIN_TIMESTEPS)

schedules = st.builds(
    NoiseSchedule,
    beta_schedule=st.sampled_from(BETA_SCHEDULES),
    beta_start=st.floats(1e-5, 1e-3),
    beta_end=st.floats(1e-2, 2e-2),
    prediction_type=st.just("v_prediction"),
    timestep_spacing=st.sampled_from((*SPACINGS, None)),
    steps_offset=st.integers(0, 999),
    set_alpha_to_one=st.booleans(),
    rescale_betas_zero_snr=st.booleans(),
    sigmas=st.sampled_from((NORMAL_SIGMAS, *CONFIG_SIGMAS)),
)


def normal(shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@given(st.integers(1, 50))
def test_stages_are_in_order_and_of_equal_size(stages):
    found = stage_of(TIMESTEPS, stages)
    sizes = np.bincount(found, minlength=stages)
    assert (np.diff(found) >= 0).all()
    assert len(sizes) == stages
    assert sizes.max() - sizes.min() <= 1


@given(st.integers(1, 50))
def test_stage_is_the_exact_floor(stages):
    """Stage s holds t if s <= t T / 1000 < s + 1; floats would miss boundaries such as t = 700 of T = 10."""
    found = stage_of(TIMESTEPS, stages)
    assert (found * TRAIN_TIMESTEPS <= TIMESTEPS * stages).all()
    assert (TIMESTEPS * stages < (found + 1) * TRAIN_TIMESTEPS).all()


def test_stage_of_traced_timesteps():
    traced = jax.jit(stage_of, static_argnums=1)(jnp.asarray(TIMESTEPS, jnp.int32), 7)
    assert traced.dtype == jnp.int32
    np.testing.assert_array_equal(traced, stage_of(TIMESTEPS, 7))


def test_stages_of_timesteps_between_those_of_the_training():
    between = TIMESTEPS[:-1] + np.float32(0.999)
    for found in (stage_of(between, 7), jax.jit(stage_of, static_argnums=1)(jnp.asarray(between), 7)):
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, np.floor(np.float64(between) * 7 / 1000))


def test_stage_of_one_integer_and_out_of_range():
    assert stage_of(500, 6) == 3
    assert stage_of(-1, 6) == 0
    assert stage_of(1000, 6) == 5


@given(schedules)
def test_noise_only_grows(schedule):
    alpha_bar = schedule.alphas_cumprod
    assert alpha_bar.dtype == np.float64
    assert alpha_bar.shape == (TRAIN_TIMESTEPS,)
    assert (np.diff(alpha_bar) < 0).all()
    assert 0 <= alpha_bar[-1] <= alpha_bar[0] < 1
    assert (alpha_bar[-1] == 0) == schedule.rescale_betas_zero_snr


def test_noise_levels_of_stable_diffusion():
    """sigma / alpha runs from 0.0292 to 14.6146, the numbers that k-diffusion and its users know the model by."""
    alpha_bar = NoiseSchedule().alphas_cumprod
    sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
    np.testing.assert_allclose(sigma[[0, -1]], [0.0292, 14.6146], atol=5e-5)


def test_levels_cannot_be_overwritten():
    with pytest.raises(ValueError, match="read-only"):
        NoiseSchedule().alphas_cumprod[0] = 1


@given(schedules)
def test_config_round_trip(schedule):
    assert NoiseSchedule.from_config(schedule.to_config()) == schedule
    assert hash(NoiseSchedule.from_config(schedule.to_config())) == hash(schedule)


def test_missing_keys_take_the_defaults_of_diffusers():
    schedule = NoiseSchedule.from_config({"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02})
    assert schedule == NoiseSchedule(
        "linear", 1e-4, 0.02, "epsilon", timestep_spacing=None, steps_offset=0, set_alpha_to_one=True
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule = 'sigmoid'.*'scaled_linear'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type.*'v_prediction'"),
        ({"timestep_spacing": "middle"}, "timestep_spacing.*'trailing'"),
        ({"trained_betas": [0.1] * 1000}, r"trained_betas = \[0\.1, .{,80}\.\.\. is not supported, use null"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas = True.*False"),
        ({"num_train_timesteps": 4000}, "num_train_timesteps = 4000.*1000"),
        ({"beta_start": 0.5}, "beta_start <= beta_end"),
        ({"beta_end": "0.012"}, 'beta_end should be a finite number, not "0.012"'),
        ({"steps_offset": -1}, "steps_offset"),
        ({"rescale_betas_zero_snr": True}, "v_prediction"),
    ],
)
def test_unsupported_settings_are_named(change, message):
    with pytest.raises(UserError, match=message):
        NoiseSchedule.from_config(NoiseSchedule().to_config() | change)


# scheduler_config.json as community models have it, saved from a DPM-Solver++ SDE with Karras' spacing of the noise.
OF_A_SAMPLER = {
    "_class_name": "DPMSolverMultistepScheduler", "_diffusers_version": "0.24.0", "algorithm_type": "sde-dpmsolver++",
    "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False,
    "dynamic_thresholding_ratio": 0.995, "euler_at_final": False, "lambda_min_clipped": -float("inf"),
    "lower_order_final": True, "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0,
    "set_alpha_to_one": False, "skip_prk_steps": True, "solver_order": 2, "solver_type": "midpoint", "steps_offset": 1,
    "thresholding": False, "timestep_spacing": None, "trained_betas": None, "use_karras_sigmas": True,
    "use_lu_lambdas": None, "variance_type": None,
}  # fmt: skip


def test_settings_of_a_sampler_are_named_and_do_not_block():
    plain = OF_A_SAMPLER | {"algorithm_type": "dpmsolver++"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert NoiseSchedule.from_config(plain) == NoiseSchedule(sigmas="karras")
    with pytest.warns(UserWarning, match=r'algorithm_type = "sde-dpmsolver\+\+" \(nearest: --solver dpmpp_2m or, with'):
        assert NoiseSchedule.from_config(OF_A_SAMPLER) == NoiseSchedule(sigmas="karras")
    odd = {"clip_sample": True, "use_karras_sigmas": False, "final_sigmas_type": "sigma_min"}
    odd["algorithm_type"] = "dpmsolver++"
    with pytest.warns(UserWarning, match=r'clip_sample = true, final_sigmas_type = "sigma_min": the'):
        assert NoiseSchedule.from_config(OF_A_SAMPLER | odd) == NoiseSchedule()


def test_unknown_settings_are_named():
    with pytest.warns(UserWarning, match=r'use_lu_lambdas = true \(nearest: --sigmas exp.*\), wobble = "x": the'):
        NoiseSchedule.from_config(NoiseSchedule().to_config() | {"use_lu_lambdas": True, "wobble": "x"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "FlowMatchEuler.* on straight flows"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5}, "EDMDPMSolver.* on EDM's continuous"),
        ({**NoiseSchedule().to_config(), "timestep_type": "continuous"}, "DDIMScheduler.* on EDM's continuous"),
        ({"_class_name": "IPNDMScheduler"}, "lacks beta_schedule, beta_start, beta_end"),
    ],
)
def test_models_trained_on_other_noise_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        NoiseSchedule.from_config(config)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_target_gives_the_clean_latents_back(prediction_type):
    """x_t and the target give x_0 back, for a batch of timesteps, under jit."""
    schedule = NoiseSchedule(prediction_type=prediction_type)
    t = jnp.array([0, 500, 999], jnp.int32)
    x0, noise = normal((2, 3, 4, 4, 4))
    x_t, output = jax.jit(lambda *a: (add_noise(schedule, *a), target(schedule, *a)))(x0, noise, t)
    alpha_bar = schedule.alphas_cumprod[np.asarray(t)].reshape(3, 1, 1, 1)
    a, b = x0_coefficients(prediction_type, np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))
    np.testing.assert_allclose(a * x_t + b * output, x0, atol=2e-5)


def test_noised_latents_keep_unit_variance():
    x0, noise = normal((2, 2, 32, 32, 4))
    for t in (0, 300, 999):
        np.testing.assert_allclose(np.std(add_noise(NoiseSchedule(), x0, noise, jnp.int32(t))), 1, atol=0.03)


@pytest.mark.parametrize("function", [add_noise, target])
def test_one_timestep_for_all_equals_one_each(function):
    schedule = NoiseSchedule(prediction_type="v_prediction")
    x0, noise = normal((2, 2, 3, 3, 4))
    t = jnp.array([10, 700], jnp.int32)
    batched = function(schedule, x0, noise, t)
    for i in range(2):
        np.testing.assert_array_equal(function(schedule, x0, noise, t[i])[i], batched[i])
