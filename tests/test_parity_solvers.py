"""The solvers against diffusers' schedulers, step by step, under one and the same denoiser."""

import sys
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import AysSchedules

from dreamstyler_jax.solvers import solver_start, solver_step, solver_table
from dreamstyler_jax.stable_diffusion.schedule import (
    BETA_SCHEDULES,
    PREDICTION_TYPES,
    SPACINGS,
    NoiseSchedule,
    add_noise,
    target,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # diffusers' own, in set_timesteps

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
STOCHASTIC = {"euler_a": EulerAncestralDiscreteScheduler, "lcm": LCMScheduler, "tcd": TCDScheduler}
SHAPE = (2, 3, 3, 4)
ATOL = 2e-5

_random = np.random.default_rng(0)
NOISE, PICTURE = _random.standard_normal((2, *SHAPE)).astype(np.float32)
WEIGHTS = (0.5 * _random.standard_normal((4, 4))).astype(np.float32)


@partial(jax.jit, static_argnames="smooth")
def trajectory(table, x_T, smooth=False, fresh=None):
    """The latents after every step, [N, *SHAPE], of a denoiser that changes slowly (smooth) or wildly with t.

    Its output is close to x, as a noise prediction is, so that the latents keep the order of one. Stochastic solvers
    take their fresh noise, standard normal [N, *SHAPE].
    """

    def body(state, row):
        t, coefficients, noise = row
        phase = jnp.sin(t * (0.005 if smooth else 1.0))
        output = state.x + 0.2 * jnp.tanh(jnp.matmul(state.x, WEIGHTS, precision="highest") + phase)
        state = solver_step(state, coefficients, output, noise)
        return state, state.x

    noise = None if fresh is None else jax.vmap(jnp.multiply)(table.noise, fresh)
    return jax.lax.scan(body, solver_start(x_T), (table.timesteps, table.coefficients, noise))[1]


def reference_scheduler(name, config, steps):
    """A scheduler as users of Stable Diffusion make one, set to its steps."""
    scheduler = SCHEDULERS[name].from_config(config)
    scheduler.set_timesteps(steps)
    return scheduler


def with_whole_timesteps(scheduler):
    """The scheduler, told to stop at whole timesteps (and their noise levels) where its own are fractional: Euler's."""
    timesteps = scheduler.timesteps.numpy()
    if (timesteps % 1 != 0).any():
        scheduler.set_timesteps(timesteps=np.round(timesteps))
    return scheduler


def signal_rate(scheduler, index):
    """Euler's latents are ours over alpha; those of the others are ours."""
    if isinstance(scheduler, EulerDiscreteScheduler | EulerAncestralDiscreteScheduler):
        return 1.0 / (1.0 + scheduler.sigmas[index] ** 2) ** 0.5
    return 1.0


def reference_trajectory(scheduler, x_T, begin=0, smooth=False):
    """Like `trajectory`; x_T in the scheduler's own coordinates."""
    x, weights, latents = torch.tensor(x_T), torch.tensor(WEIGHTS), []
    for index, t in enumerate(scheduler.timesteps[begin:], begin):
        phase = torch.sin(t.float() * (0.005 if smooth else 1.0))
        seen = scheduler.scale_model_input(x, t)
        output = seen + 0.2 * torch.tanh(seen @ weights + phase)
        x = scheduler.step(output, t, x).prev_sample
        latents.append(x * signal_rate(scheduler, index + 1))
    return torch.stack(latents).numpy()


def assert_same_trajectory(name, schedule, scheduler, steps, atol=ATOL, sigmas="normal"):
    table = solver_table(name, schedule, steps, sigmas=sigmas)
    assert_same_timesteps(table, scheduler)
    table = table._replace(timesteps=scheduler.timesteps.numpy())  # the same outputs of the model on both sides
    ours = trajectory(table, NOISE * table.init_scale)
    theirs = reference_trajectory(scheduler, NOISE * np.float32(scheduler.init_noise_sigma))
    assert np.abs(theirs).max() < 10.0
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def assert_same_timesteps(table, scheduler):
    """Whole ones are equal; Euler's others differ by diffusers' float32, at the level of least noise."""
    atol = 0 if table.timesteps.dtype == np.int32 else 5e-4
    np.testing.assert_allclose(table.timesteps, scheduler.timesteps.numpy(), rtol=0, atol=atol)


# Under linspace diffusers' DDIM and Euler take a single step from timestep 0; see solver_table.
CASES = [
    case
    for case in product(SCHEDULERS, SPACINGS, [1, 2, 3, 5, 10, 25])
    if case not in [("ddim", "linspace", 1), ("euler", "linspace", 1)]
]


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(("name", "spacing", "steps"), CASES)
def test_trajectory(name, spacing, steps, prediction_type):
    schedule = NoiseSchedule(prediction_type=prediction_type, timestep_spacing=spacing)
    scheduler = with_whole_timesteps(reference_scheduler(name, schedule.to_config(), steps))
    assert_same_trajectory(name, schedule, scheduler, steps)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [1, 2, 4, 10])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_trajectory_with_the_same_fresh_noise(name, steps, prediction_type, monkeypatch):
    schedule = NoiseSchedule(prediction_type=prediction_type, timestep_spacing="trailing")
    scheduler = STOCHASTIC[name].from_config(schedule.to_config())
    scheduler.set_timesteps(steps)
    fresh = np.random.default_rng(steps).standard_normal((steps, *SHAPE)).astype(np.float32)
    draws = map(torch.from_numpy, fresh)
    monkeypatch.setattr(sys.modules[type(scheduler).__module__], "randn_tensor", lambda *_, **__: next(draws))
    table = solver_table(name, schedule, steps)
    np.testing.assert_array_equal(table.timesteps, scheduler.timesteps.numpy())
    ours = trajectory(table, NOISE * table.init_scale, fresh=fresh)
    theirs = reference_trajectory(scheduler, NOISE * np.float32(scheduler.init_noise_sigma))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)
    assert steps == 1 or np.abs(trajectory(table, NOISE * table.init_scale, fresh=-fresh)[-1] - ours[-1]).max() > 0.1


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_timesteps_of_many_numbers_of_steps(name, spacing):
    schedule = NoiseSchedule(timestep_spacing=spacing)
    half_if_fractional = 0.501 if (name, spacing) == ("euler", "linspace") else 0.0
    for steps in [2, 3, 4, 6, 7, 20, 30, 31, 48, 50, 99, 333, 500, 997]:
        ours = solver_table(name, schedule, steps).timesteps
        theirs = reference_scheduler(name, schedule.to_config(), steps).timesteps.numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=half_if_fractional)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_euler_rounding_is_the_only_liberty(name):
    """Against diffusers' fractional timesteps Euler's result moves by little, the others' by nothing."""
    schedule = NoiseSchedule(timestep_spacing="linspace")
    scheduler = reference_scheduler(name, schedule.to_config(), 25)
    table = solver_table(name, schedule, 25)
    ours = trajectory(table, NOISE * table.init_scale, smooth=True)[-1]
    theirs = reference_trajectory(scheduler, NOISE * np.float32(scheduler.init_noise_sigma), smooth=True)[-1]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-4 if name == "euler" else ATOL)


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("steps_offset", [0, 1, 30])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_ends_of_the_schedule(name, steps_offset, set_alpha_to_one):
    schedule = NoiseSchedule(timestep_spacing="leading", steps_offset=steps_offset, set_alpha_to_one=set_alpha_to_one)
    assert_same_trajectory(name, schedule, reference_scheduler(name, schedule.to_config(), 25), 25)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_zero_terminal_snr(name):
    schedule = NoiseSchedule(prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True)
    scheduler = reference_scheduler(name, schedule.to_config(), 10)
    # diffusers' Euler holds latents 4096 times ours here, and their rounding.
    assert_same_trajectory(name, schedule, scheduler, 10, atol=1e-4 if name == "euler" else ATOL)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_configuration_of_stable_diffusion_1_5(name):
    """Its file states no spacing: every scheduler takes its own custom, read from the file or from the pipeline."""
    config = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    }
    schedule = NoiseSchedule.from_config(config)
    pipeline_config = PNDMScheduler.from_config(config).config
    for source in (config, pipeline_config, schedule.to_config()):
        scheduler = with_whole_timesteps(reference_scheduler(name, source, 25))
        assert_same_trajectory(name, schedule, scheduler, 25)


STARTS = [(name, "normal") for name in SCHEDULERS] + [("euler", "karras"), ("dpmpp_2m", "karras")]


@pytest.mark.parametrize("strength", [0.1, 0.35, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize(("name", "sigmas"), STARTS)
def test_start_from_a_picture(name, sigmas, spacing, strength):
    steps = 10
    schedule = NoiseSchedule(timestep_spacing=spacing, sigmas=sigmas)
    scheduler = reference_scheduler(name, schedule.to_config(), steps)
    begin = steps - int(steps * strength)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    noised = scheduler.add_noise(torch.tensor(PICTURE), torch.tensor(NOISE), scheduler.timesteps[begin].reshape(1))
    theirs = reference_trajectory(scheduler, noised.numpy(), begin)
    table = solver_table(name, schedule, steps, strength=strength, sigmas=schedule.sigmas)
    ours = trajectory(table, table.start_rates[0] * PICTURE + table.start_rates[1] * NOISE)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)


# Spacings of the noise levels

SPACED = list(product(["euler", "dpmpp_2m", "unipc"], ["karras", "exponential", "beta"]))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [1, 2, 5, 10, 25])
@pytest.mark.parametrize(("name", "sigmas"), SPACED)
def test_trajectory_between_spaced_noise_levels(name, sigmas, steps, prediction_type):
    """As a real scheduler_config.json asks for them, with ``use_karras_sigmas`` and the like."""
    for spacing in ("leading", "trailing") if name == "euler" else ("linspace",):
        schedule = NoiseSchedule(prediction_type=prediction_type, timestep_spacing=spacing, sigmas=sigmas)
        assert schedule.to_config()[f"use_{sigmas}_sigmas"]
        scheduler = reference_scheduler(name, schedule.to_config(), steps)
        assert_same_trajectory(name, schedule, scheduler, steps, sigmas=sigmas)


@pytest.mark.parametrize(("name", "sigmas"), SPACED)
def test_the_model_sees_the_timesteps_of_diffusers(name, sigmas):
    """Also where rounding and cutting off hang on diffusers' float32: 575.49976 becomes 576, and 999 becomes 998."""
    schedule = NoiseSchedule(timestep_spacing="linspace", sigmas=sigmas)
    for steps in [2, 3, 4, 6, 7, 18, 30, 35, 43, 50, 52, 99, 101, 200]:
        theirs = reference_scheduler(name, schedule.to_config(), steps)
        assert_same_timesteps(solver_table(name, schedule, steps, sigmas=sigmas), theirs)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "unipc"])
def test_spaced_noise_levels_up_to_pure_noise(name):
    schedule = NoiseSchedule(
        prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True, sigmas="karras"
    )
    scheduler = reference_scheduler(name, schedule.to_config(), 10)
    assert_same_trajectory(name, schedule, scheduler, 10, atol=1e-4 if name == "euler" else ATOL, sigmas="karras")


AYS = {"ays_sd": "StableDiffusion", "ays_sdxl": "StableDiffusionXL"}  # ours: the names in diffusers' tables


@pytest.mark.parametrize("steps", [5, 10, 17])
@pytest.mark.parametrize("sigmas", AYS)
def test_align_your_steps_by_its_noise_levels(sigmas, steps):
    """diffusers has the tables for ten steps, their authors the interpolation: log-linear, with 0.029 at the end."""
    table = [*AysSchedules[f"{AYS[sigmas]}Sigmas"][:-1], 0.029]
    levels = np.exp(np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(table)), np.log(table)))
    scheduler = EulerDiscreteScheduler.from_config(NoiseSchedule().to_config())
    scheduler.set_timesteps(sigmas=[*levels[:-1], 0.0])
    assert_same_trajectory("euler", NoiseSchedule(), scheduler, steps, sigmas=sigmas)


@pytest.mark.parametrize("sigmas", AYS)
def test_align_your_steps_by_its_timesteps(sigmas):
    timesteps = AysSchedules[f"{AYS[sigmas]}Timesteps"]
    scheduler = DPMSolverMultistepScheduler.from_config(NoiseSchedule().to_config())
    scheduler.set_timesteps(timesteps=timesteps)
    assert_same_trajectory("dpmpp_2m", NoiseSchedule(), scheduler, 10, sigmas=sigmas)
    assert solver_table("unipc", NoiseSchedule(), 10, sigmas=sigmas).timesteps.tolist() == timesteps


@pytest.mark.parametrize("sigmas", ["karras", "exponential"])
def test_ancestral_steps_between_spaced_noise_levels(sigmas, monkeypatch):
    """diffusers has none for its ancestral Euler, so it is handed those of its Euler."""
    steps, schedule = 6, NoiseSchedule(timestep_spacing="trailing")
    table = solver_table("euler_a", schedule, steps, sigmas=sigmas)
    levels = EulerDiscreteScheduler.from_config(schedule.to_config() | {f"use_{sigmas}_sigmas": True})
    levels.set_timesteps(steps)
    assert_same_timesteps(table, levels)
    scheduler = EulerAncestralDiscreteScheduler.from_config(schedule.to_config())
    scheduler.set_timesteps(steps)
    scheduler.timesteps, scheduler.sigmas = levels.timesteps, levels.sigmas
    fresh = np.random.default_rng(0).standard_normal((steps, *SHAPE)).astype(np.float32)
    draws = map(torch.from_numpy, fresh)
    monkeypatch.setattr(sys.modules[type(scheduler).__module__], "randn_tensor", lambda *_, **__: next(draws))
    ours = trajectory(table, NOISE * table.init_scale, fresh=fresh)
    theirs = reference_trajectory(scheduler, NOISE * np.float32(scheduler.init_noise_sigma))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)


@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
def test_noise_levels(beta_schedule):
    schedule = NoiseSchedule(beta_schedule=beta_schedule)
    theirs = DDIMScheduler.from_config(schedule.to_config()).alphas_cumprod.numpy()
    np.testing.assert_allclose(schedule.alphas_cumprod, theirs, rtol=1e-4, atol=1e-8)


def test_add_noise_and_target():
    schedule = NoiseSchedule(prediction_type="v_prediction")
    scheduler = DDIMScheduler.from_config(schedule.to_config())
    t = np.array([3, 970])
    arguments = torch.tensor(PICTURE), torch.tensor(NOISE), torch.tensor(t)
    noised, velocity = scheduler.add_noise(*arguments), scheduler.get_velocity(*arguments)
    np.testing.assert_allclose(add_noise(schedule, PICTURE, NOISE, t), noised, rtol=0, atol=1e-5)
    np.testing.assert_allclose(target(schedule, PICTURE, NOISE, t), velocity, rtol=0, atol=1e-5)
