"""The choices of ``timesteps``: how they are distributed, that every stage has its share, and what they weigh."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax import timestep_sampling
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule, stage_of
from dreamstyler_jax.timestep_sampling import CHOICES, STAGES_SHARE, draw_timesteps, plan_timesteps

SCHEDULES = {
    "1.5": NoiseSchedule(),
    "cosine": NoiseSchedule(beta_schedule="squaredcos_cap_v2"),
    "pure noise": NoiseSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True),
}


def draw(plan, size, count):
    """Timesteps of ``count`` batches, int[count, size]."""
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: draw_timesteps(plan, key, size)))(keys))


@given(st.sampled_from(sorted(CHOICES)), st.sampled_from(sorted(SCHEDULES)), st.integers(1, 50))
def test_every_stage_gets_samples_that_count(choice, schedule, stages):
    plan = plan_timesteps(choice, SCHEDULES[schedule], stages)
    shares = np.full(1000, 1e-3) if plan.cumulative is None else np.diff(plan.cumulative, prepend=0)
    assert shares.min() >= -1e-15 and shares.sum() == pytest.approx(1, abs=1e-9)
    of_stage = np.bincount(stage_of(np.arange(1000), stages), shares)
    assert len(of_stage) == stages
    assert of_stage.min() * stages >= {"style_friendly": STAGES_SHARE, "balanced": 1}.get(choice, 0.9) - 1e-9
    weights = np.ones(1000) if plan.weights is None else plan.weights
    assert np.isfinite(weights).all() and np.bincount(stage_of(np.arange(1000), stages), weights * shares).min() > 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_style_friendly_log_snrs_are_normal_around_a_low_mean(name):
    """Log-SNRs by the published formula, N(-6, 2^2), as the timesteps with the nearest alpha-bar."""
    alpha_bar = SCHEDULES[name].alphas_cumprod
    log_snr = np.random.default_rng(0).normal(-6, 2, 400_000)
    drawn = 1 / (1 + np.exp(-log_snr))
    drawn = drawn[drawn >= alpha_bar[-1] - (alpha_bar[-2] - alpha_bar[-1]) / 2]
    nearest = 999 - np.searchsorted((alpha_bar[::-1][1:] + alpha_bar[::-1][:-1]) / 2, drawn)
    expected = np.cumsum(np.bincount(nearest, minlength=1000)) / len(drawn)
    np.testing.assert_allclose(np.cumsum(timestep_sampling.style_shares(SCHEDULES[name])), expected, atol=0.003)
    assert len(drawn) > 1e5 and (name != "1.5" or 0.3 < len(drawn) / 400_000 < 0.45)


@pytest.mark.parametrize("choice", ["uniform", "balanced", "style_friendly"])
def test_timesteps_are_drawn_as_the_plan_says(choice):
    plan, size = plan_timesteps(choice, SCHEDULES["1.5"], 6), 8
    cumulative = np.arange(1, 1001) / 1000 if plan.cumulative is None else plan.cumulative
    timesteps = draw(plan, size, 2000)
    assert timesteps.dtype == np.int32 and timesteps.min() >= 0 and timesteps.max() <= 999
    found = np.cumsum(np.bincount(timesteps.ravel(), minlength=1000)) / timesteps.size
    np.testing.assert_allclose(found, cumulative, atol=0.005)
    before = np.concatenate([[0], cumulative[:-1]])[timesteps]
    part = np.arange(size)
    assert (cumulative[timesteps] >= part / size - 1e-6).all(), "sample i in part i: stratified"
    assert (before <= (part + 1) / size + 1e-6).all()


@pytest.mark.parametrize(("size", "stages"), [(8, 6), (4, 6), (6, 6), (12, 6), (3, 7)])
def test_balanced_batches_have_the_same_number_of_samples_of_each_stage(size, stages):
    def counts(choice):
        timesteps = draw(plan_timesteps(choice, SCHEDULES["1.5"], stages), size, 1000)
        return (stage_of(timesteps, stages)[..., None] == np.arange(stages)).sum(1)

    balanced = counts("balanced")
    assert (balanced.min(), balanced.max()) == (size // stages, -(-size // stages))
    np.testing.assert_allclose(balanced.mean(0), size / stages, atol=0.05)
    if size % stages:
        uniform = counts("uniform")
        assert uniform.max() - uniform.min() > balanced.max() - balanced.min(), "what it adds to uniform"


def test_min_snr_gives_little_noise_less_weight():
    for name, schedule in SCHEDULES.items():
        weights = timestep_sampling.min_snr_weights(schedule)
        snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
        if schedule.prediction_type == "epsilon":
            np.testing.assert_allclose(weights, np.where(snr > 5, 5 / snr, 1), err_msg=name)
        else:
            np.testing.assert_allclose(weights * (snr + 1), np.minimum(snr, 5), err_msg=name)
            assert weights[-1] == 0, "pure noise tells nothing of the picture"
