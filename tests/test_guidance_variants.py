"""Variants of guidance: what each does to a guided prediction, by the formula of its paper."""

import jax.numpy as jnp
import numpy as np
import pytest

from dreamstyler_jax import guidance
from dreamstyler_jax.guidance_variants import NUMBERS

SHAPE, COEFFICIENTS = (8, 8, 4), (1.7, -1.2, 0, 0, 0, 0)  # (a, b) of "x_0-prediction = a x + b prediction"
OFF = {name: number.default for name, number in NUMBERS.items()}
_random = np.random.default_rng(0)
X = _random.standard_normal(SHAPE)
NULL, FULL, CONTEXT, STYLE = _random.standard_normal(SHAPE) + 0.5 * _random.standard_normal((4, *SHAPE))
ROWS = np.stack([NULL, FULL, CONTEXT, STYLE, CONTEXT])
X0 = COEFFICIENTS[0] * X + COEFFICIENTS[1] * FULL


def guide(weights, numbers, rows=ROWS, average=0.0):
    """The guided prediction of one picture, and the running average; float64 of float32."""
    variants = {name: jnp.float32([value]) for name, value in {**OFF, **numbers}.items()}
    average = jnp.full((1, *SHAPE), average, jnp.float32)
    predict = guidance.guided(lambda x, t, row: row, jnp.asarray(weights)[:, None], 1, variants)
    step = guidance.StepInputs(jnp.float32(COEFFICIENTS))
    results = predict(jnp.float32(X)[None], jnp.int32(0), jnp.float32(rows)[:, None], step, average)
    return [np.asarray(result, np.float64)[0] for result in results]


def added(weights, numbers, **options):
    """What guidance adds to the full prompt's x_0-prediction, per unit of its total scale."""
    scale = np.abs(weights - guidance.cfg(1)).sum() / 2
    return COEFFICIENTS[1] * (guide(weights, numbers, **options)[0] - FULL) / scale


WEIGHTS = [
    guidance.cfg(5),
    guidance.cfg(0.5),
    guidance.paper(2, 0.5, 1.5),
    guidance.cfg_guidance(3, weak_scale=2).weights,
]
ALL = {"cfg_zero_star": 1.0, "apg_eta": 0.0, "apg_norm_threshold": 3.0, "apg_momentum": -0.5, "guidance_rescale": 0.7}


@pytest.mark.parametrize("weights", WEIGHTS)
def test_numbers_at_their_defaults_are_plain_guidance(weights):
    ours, average = guide(weights, OFF)
    np.testing.assert_allclose(ours, np.tensordot(weights, ROWS, 1), atol=1e-5)
    np.testing.assert_allclose(average, added(weights, OFF), atol=1e-5)
    for name, value in ALL.items():
        assert np.abs(guide(weights, {name: value}, average=0.1)[0] - ours).max() > 1e-2, name


def test_what_guidance_adds_per_unit_of_scale_is_the_difference_of_two_predictions():
    for scale in (1.5, 5, 20):
        np.testing.assert_allclose(added(guidance.cfg(scale), OFF), COEFFICIENTS[1] * (FULL - NULL), atol=1e-5)


def test_without_guidance_no_variant_changes_anything():
    for weights in (guidance.cfg(1), guidance.paper(1, 0, 0)):
        np.testing.assert_allclose(guide(weights, ALL)[0], FULL, atol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_rescaled_guidance_has_the_contrast_of_the_full_prediction(weights):
    plain = np.tensordot(weights, ROWS, 1)
    whole, half = (guide(weights, {"guidance_rescale": share})[0] for share in (1.0, 0.5))
    np.testing.assert_allclose(whole, plain * FULL.std() / plain.std(), atol=1e-5)
    assert whole.std() == pytest.approx(FULL.std(), rel=1e-5)
    np.testing.assert_allclose(half, (plain + whole) / 2, atol=1e-5)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_apg_removes_what_is_parallel_to_the_full_x0_prediction(weights):
    plain, none, half = (added(weights, {"apg_eta": eta}) for eta in (1.0, 0.0, 0.5))
    assert abs((none * X0).sum()) < 1e-4 * np.linalg.norm(none) * np.linalg.norm(X0)
    np.testing.assert_allclose(plain - none, (plain * X0).sum() / (X0**2).sum() * X0, atol=1e-5)
    np.testing.assert_allclose(half, (plain + none) / 2, atol=1e-5)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_apg_limits_the_norm_whatever_the_scale(weights):
    plain = added(weights, OFF)
    for share in (0.3, 0.9, 1.1):
        limited = added(weights, {"apg_norm_threshold": share * np.linalg.norm(plain)})
        np.testing.assert_allclose(limited, plain * min(share, 1), atol=1e-5)


def test_apg_averages_over_the_steps():
    other = ROWS[::-1]
    first, average = guide(guidance.cfg(5), {"apg_momentum": -0.5})
    second, after = guide(guidance.cfg(5), {"apg_momentum": -0.5}, rows=other, average=average)
    np.testing.assert_allclose(first, guide(guidance.cfg(5), OFF)[0], atol=1e-5)
    expected = COEFFICIENTS[1] * (other[1] - other[0]) - 0.5 * COEFFICIENTS[1] * (FULL - NULL)
    np.testing.assert_allclose(after, expected, atol=1e-5)
    np.testing.assert_allclose(second, other[1] + 4 * expected / COEFFICIENTS[1], atol=1e-4)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_zero_star_takes_the_multiple_of_the_null_prediction_that_is_nearest_to_the_full_one(weights):
    nearest = (FULL * NULL).sum() / (NULL**2).sum()
    assert abs(((FULL - nearest * NULL) * NULL).sum()) < 1e-9
    for share in (0.5, 1.0):
        replaced = np.stack([(1 - share + share * nearest) * NULL, *ROWS[1:]])
        expected = np.tensordot(weights, replaced, 1)
        np.testing.assert_allclose(guide(weights, {"cfg_zero_star": share})[0], expected, atol=1e-5)
