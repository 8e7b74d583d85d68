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
    """e(null), e(v), e(vc), e(vs), random: float64[4, *shape]."""
    return np.random.default_rng(0).standard_normal((4, *shape))


def combined(weights, rows):
    return np.tensordot(weights.astype(np.float64), rows, 1)


def equation_11(rows, ln, ls, lc):
    """As it is printed (Ahn et al. 2024), term by term."""
    null, v, vc, vs = rows
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
    assert {scale for form in guidance.FORMS.values() for scale in form.scales} == set(guidance.SCALES)
    assert guidance.forms_with("guidance_scale") == ["cfg"]
    assert guidance.forms_with("style_scale") == ["paper", "release"]


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


def test_guided_weighs_each_image_on_its_own():
    rng = np.random.default_rng(1)
    x, states = rng.standard_normal((2, 3, 3, 4)), rng.standard_normal((4, 2, 5, 6))
    weights = np.stack([guidance.paper(5, 1, 3), guidance.cfg(2)], 1)

    def denoise(x, t, states):
        """Mixes image, timestep and text in a way that no two of them can be mistaken for each other."""
        return jnp.sin(x + t * states.mean((1, 2))[:, None, None, None])

    ours = guidance.guided(denoise, jnp.asarray(weights))(jnp.float32(x), jnp.int32(3), jnp.float32(states))
    for image in range(2):
        rows = np.sin(x[image] + 3 * states.mean((2, 3))[:, image, None, None, None])
        np.testing.assert_allclose(ours[image], combined(weights[:, image], rows), atol=1e-4)
