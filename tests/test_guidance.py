"""Guidance: an affine combination of predictions, Eq. 11 of the paper in particular."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax import guidance
from dreamstyler_jax.runtime.errors import UserError

scales = st.floats(0, 100, width=32)


def predictions(shape=(2, 3, 4)):
    """e(null), e(v), e(vc), e(vs), e(vw), random: float64[5, *shape]."""
    return np.random.default_rng(0).standard_normal((5, *shape))


def combined(weights, rows):
    return np.tensordot(weights.astype(np.float64), rows, 1)


def equation_11(rows, ln, ls, lc):
    """As it is printed (Ahn et al. 2024), term by term."""
    null, v, vc, vs, _ = rows
    return (
        null + ln * (v - null)
        + lc * (vc - null) + ls * (v - vc)
        + ls * (vs - null) + lc * (v - vs)
    )  # fmt: skip


@given(scales, scales, scales)
def test_weights_sum_to_one(ln, ls, lc):
    for weights in (guidance.cfg(ln), guidance.paper(ln, ls, lc), guidance.release(ln, ls, lc)):
        assert weights.shape == (len(guidance.ROWS),)
        assert weights.dtype == np.float32
        assert weights.astype(np.float64).sum() == pytest.approx(1, abs=1e-4)


@given(scales, scales, scales)
def test_paper_is_equation_11(ln, ls, lc):
    rows = predictions()
    expected = equation_11(rows, ln, ls, lc)
    np.testing.assert_allclose(combined(guidance.paper(ln, ls, lc), rows), expected, atol=1e-6 * (1 + ln + ls + lc) * 9)


@given(scales, scales, scales)
def test_release_halves_style_and_context(ln, ls, lc):
    np.testing.assert_array_equal(guidance.release(ln, ls, lc), guidance.paper(ln, ls / 2, lc / 2))


@given(scales)
def test_cfg_goes_from_the_null_prediction_past_the_full_one(scale):
    rows = predictions()
    null, v = rows[:2]
    np.testing.assert_allclose(combined(guidance.cfg(scale), rows), null + scale * (v - null), atol=1e-5 * (1 + scale))


@given(scales, scales)
def test_equal_style_and_context_scales_are_cfg_in_two_rows(ln, both):
    for form, total in ((guidance.paper, ln + 2 * both), (guidance.release, ln + both)):
        weights = form(ln, both, both)
        np.testing.assert_allclose(weights, guidance.cfg(total), rtol=1e-6, atol=1e-5)
        assert set(guidance.rows_needed(weights[None])) <= {0, 1}


def test_rows_needed_are_those_of_any_image():
    assert guidance.rows_needed(guidance.cfg(1.0)[None]) == [1]
    assert guidance.rows_needed(guidance.cfg(0.0)[None]) == [0]
    assert guidance.rows_needed(guidance.cfg(5.0)[None]) == [0, 1]
    assert guidance.rows_needed(guidance.paper(5, 1, 3)[None]) == [0, 1, 2, 3]
    assert guidance.rows_needed(np.stack([guidance.cfg(1.0), guidance.paper(0, 1, 2)])) == [0, 1, 2, 3]


def test_forms_are_known_by_name():
    scales = {"null_scale": 5.0, "style_scale": 1.0, "context_scale": 3.0}
    cfg = guidance.Guidance("cfg", {"guidance_scale": 7.5})
    np.testing.assert_array_equal(cfg.weights, guidance.cfg(7.5))
    np.testing.assert_array_equal(guidance.Guidance("paper", scales).weights, guidance.paper(5, 1, 3))
    np.testing.assert_array_equal(guidance.Guidance("release", scales).weights, guidance.release(5, 1, 3))


def test_every_form_says_which_scales_it_takes():
    for name, form in guidance.FORMS.items():
        assert form.name == name and form.help
        assert tuple(inspect.signature(form.weights).parameters) == form.scales
    assert {scale for form in guidance.FORMS.values() for scale in form.scales} == set(guidance.SCALES) - {
        *guidance.OPTIONAL_SCALES
    }
    assert guidance.forms_with("guidance_scale") == ["cfg"]
    assert guidance.forms_with("style_scale") == ["paper", "release"]
    assert not any(guidance.forms_with(name) for name in guidance.OPTIONAL_SCALES)


def test_guidance_is_a_form_with_its_scales():
    np.testing.assert_array_equal(guidance.cfg_guidance(7.5).weights, guidance.cfg(7.5))
    np.testing.assert_array_equal(guidance.paper_guidance(5, 1, 3).weights, guidance.paper(5, 1, 3))
    np.testing.assert_array_equal(guidance.release_guidance(5, 1, 3).weights, guidance.release(5, 1, 3))
    assert guidance.paper_guidance(5, 1, 3) == guidance.Guidance(
        "paper", {"context_scale": 3, "style_scale": 1, "null_scale": 5}
    )


def test_mistakes_in_guidance_are_named():
    with pytest.raises(UserError, match=r"guidance: must be one of cfg, paper, release \(did you mean paper\?\)"):
        guidance.Guidance("papr", {})
    with pytest.raises(UserError, match="guidance: cfg takes guidance_scale, not style_scale"):
        guidance.Guidance("cfg", {"style_scale": 1})
    with pytest.raises(UserError, match=r"guidance_rescale: must be from 0 to 1, not 1\.5"):
        guidance.cfg_guidance(3, guidance_rescale=1.5)
    with pytest.raises(UserError, match=r"guidance_schedule: must be one of .* \(did you mean linear\?\)"):
        guidance.schedule_factors("liner", 3)


def test_optional_scales_join_every_form_and_are_left_out_where_they_do_nothing():
    rescaled = guidance.paper_guidance(5, 1, 3, guidance_rescale=0.7, apg_eta=1.0, weak_scale=0.0)
    assert rescaled.scales == {"null_scale": 5, "style_scale": 1, "context_scale": 3, "guidance_rescale": 0.7}
    np.testing.assert_array_equal(rescaled.weights, guidance.paper(5, 1, 3))
    assert rescaled.variants == {
        "cfg_zero_star": 0, "apg_eta": 1, "apg_norm_threshold": 0, "apg_momentum": 0, "guidance_rescale": 0.7
    }  # fmt: skip
    assert guidance.release_guidance(5, 1, 3, cfg_zero_star=0.0) == guidance.release_guidance(5, 1, 3)
    assert guidance.cfg_guidance(3, weak_scale=2.0).variants == {}


@given(scales, scales)
def test_the_weak_scale_adds_the_difference_between_the_full_and_the_weak_prediction(scale, weak_scale):
    rows = predictions()
    expected = combined(guidance.cfg(scale), rows) + weak_scale * (rows[1] - rows[4])
    ours = guidance.cfg_guidance(scale, weak_scale=weak_scale).weights
    np.testing.assert_allclose(combined(ours, rows), expected, atol=1e-5 * (1 + scale + weak_scale))


def test_without_guidance_there_are_no_variants_of_it():
    def in_effect(scale, **optional):
        return guidance.in_effect(guidance.cfg_guidance(scale, **optional))

    assert in_effect(0, guidance_rescale=0.5) == in_effect(1, apg_momentum=-0.5) == guidance.cfg_guidance(1)
    for optional in ({"guidance_rescale": 0.5}, {"guidance_rescale": 0.5, "weak_scale": 2.0}):
        assert in_effect(3, **optional).scales == {"guidance_scale": 3, **optional}
    weak = {"guidance_rescale": 0.5, "weak_scale": 2.0}
    assert in_effect(1, **weak).scales == {"guidance_scale": 1, **weak}, "the weak prompt is guidance too"


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_schedules_rise_and_have_the_scale_as_their_mean(steps):
    np.testing.assert_array_equal(guidance.schedule_factors("constant", steps), np.ones(steps))
    for schedule in ("linear", "cosine"):
        factors = guidance.schedule_factors(schedule, steps)
        assert factors.mean() == pytest.approx(1, abs=1e-6)
        assert (np.diff(factors) > 0).all() and (factors > 0).all() and (factors < 2).all()
    np.testing.assert_allclose(guidance.schedule_factors("linear", 4), [0.25, 0.75, 1.25, 1.75])
    np.testing.assert_allclose(guidance.schedule_factors("cosine", 2), 1 - np.cos([np.pi / 4, 3 * np.pi / 4]))


def test_guided_weighs_each_image_on_its_own():
    rng = np.random.default_rng(1)
    x, states = rng.standard_normal((2, 3, 3, 4)), rng.standard_normal((5, 2, 5, 6))
    weights = np.stack([guidance.paper(5, 1, 3), guidance.cfg(2)], 1)

    def denoise(x, t, states):
        """Mixes image, timestep and text in a way that no two of them can be mistaken for each other."""
        return jnp.sin(x + t * states.mean((1, 2))[:, None, None, None])

    guide, inputs = (
        guidance.guided(denoise, jnp.asarray(weights), 1),
        (jnp.float32(x), jnp.int32(3), jnp.float32(states)),
    )
    ours, average = guide(*inputs, guidance.StepInputs(jnp.ones(6)), None)
    half, _ = guide(*inputs, guidance.StepInputs(jnp.ones(6), factor=jnp.float32(0.5)), None)
    assert average is None, "without variants there is nothing to carry"
    for image in range(2):
        rows = np.sin(x[image] + 3 * states.mean((2, 3))[:, image, None, None, None])
        np.testing.assert_allclose(ours[image], combined(weights[:, image], rows), atol=1e-4)
        np.testing.assert_allclose(half[image], (ours[image] + rows[1]) / 2, atol=1e-4)
