"""Learning directions on the sphere, and their means."""

import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax.api import train_style
from dreamstyler_jax.directions import descend_on_sphere, spherical_mean, with_norm
from dreamstyler_jax.mixing import mix
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.style import Style
from dreamstyler_jax.train_settings import TrainSettings, peak_learning_rate


def vectors(seed, shape=(3, 2, 16), scale=0.3):
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def norms(table):
    return np.linalg.norm(table, axis=-1)


def angle(a, b):
    return np.arccos(np.clip(np.sum(a * b, -1) / norms(a) / norms(b), -1, 1))


def advance(table, gradient, *, rate=0.1, prior=0.0, beta=0.9, steps=1):
    """The table after steps that all have one gradient."""
    optimizer = descend_on_sphere(optax.constant_schedule(rate), prior, beta)
    state = optimizer.init(table)
    for _ in range(steps):
        updates, state = optimizer.update(gradient, state, table)
        table = optax.apply_updates(table, updates)
    return np.asarray(table)


# Learning


def test_norms_stay_and_a_step_turns_every_vector_by_the_learning_rate():
    table, gradient = vectors(0), vectors(1)
    moved = advance(table, gradient, rate=0.01, beta=0.0)
    np.testing.assert_allclose(norms(moved), norms(table), rtol=1e-6)
    np.testing.assert_allclose(angle(moved, table), np.arctan(0.01), rtol=0.03)
    assert (np.sum((moved - table) * gradient, -1) < 0).all()


def test_a_stage_without_samples_stands_still_also_with_a_prior():
    table, gradient = vectors(0), vectors(1)
    gradient[1] = 0
    moved = advance(table, gradient, prior=0.5, steps=3)
    np.testing.assert_array_equal(moved[1], table[1])
    assert (angle(moved[[0, 2]], table[[0, 2]]) > 0.01).all()


def test_a_stage_that_waited_moves_as_if_it_had_not():
    table, gradient, none = vectors(0), vectors(1), np.zeros((3, 2, 16), np.float32)
    optimizer = descend_on_sphere(optax.constant_schedule(0.1))
    _, waited = optimizer.update(none, optimizer.init(table), table)
    updates, _ = optimizer.update(gradient, waited, table)
    np.testing.assert_array_equal(table + np.asarray(updates), advance(table, gradient))


def test_the_prior_draws_to_the_first_direction():
    table, gradient = vectors(0), vectors(1)
    free, drawn = (advance(table, gradient, prior=prior, steps=30) for prior in (0.0, 2.0))
    assert (angle(drawn, table) < angle(free, table)).all()


def test_a_style_keeps_the_mean_norm_of_the_vocabulary(tiny):
    """Through the settings and the training loop."""
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    settings = dict(norm="fixed", stages=3, steps=4, batch_size=3, learning_rate=0.3, progress=False)
    style = train_style(tiny, picture, prompt="a red house in the style of {}", **settings)
    vocabulary = norms(np.asarray(tiny.vocabulary_vectors["clip_l"]))
    np.testing.assert_allclose(norms(style.tables["clip_l"]), vocabulary[vocabulary > 0].mean(), rtol=1e-5)
    assert len(np.unique(style.tables["clip_l"], axis=0)) == 3
    assert style.metadata["norm"] == "fixed"


def test_the_mean_norm_leaves_out_rows_of_zeros_and_a_zero_word_is_refused():
    vocabulary = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]], np.float32)
    np.testing.assert_allclose(with_norm(np.array([[0.0, 2.0]]), vocabulary), [[0.0, 3.0]])
    with pytest.raises(UserError, match="init_word: the vector of this word is zero"):
        with_norm(np.zeros((1, 2)), vocabulary)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "fixed", "weight_decay": 0.1}, "weight_decay: changes norms"),
        ({"prior": 1e-4}, "prior: draws directions"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        TrainSettings(**settings)


def test_the_learning_rate_goes_by_the_norm_unless_it_is_given():
    assert [peak_learning_rate(TrainSettings(norm=norm)) for norm in ("free", "fixed")] == [0.02, 0.1]
    assert peak_learning_rate(TrainSettings(norm="fixed", learning_rate=0.04)) == 0.04


# Means


@given(st.integers(0, 1000), st.floats(-0.5, 1.5))
def test_the_mean_of_two_is_spherical_interpolation(seed, weight):
    a, b = vectors(seed, (2, 8)), vectors(seed + 1, (2, 8))
    between = angle(a, b)[:, None]
    expected = np.sin((1 - weight) * between) * a / norms(a)[:, None] + np.sin(weight * between) * b / norms(b)[:, None]
    mean = spherical_mean([a, b], [1 - weight, weight])
    np.testing.assert_allclose(mean / norms(mean)[:, None], expected / np.sin(between), atol=2e-4)


@given(st.integers(0, 1000), st.lists(st.floats(0.1, 1), min_size=2, max_size=4))
def test_the_mean_is_where_the_ways_to_all_cancel_out_in_any_order(seed, shares):
    weights = np.array(shares) / sum(shares)
    several = [vectors(seed + i, (8,)) + 0.5 for i in range(len(shares))]  # within a half sphere
    mean = spherical_mean(several, list(weights))
    unit = mean / norms(mean)
    ways = []
    for vector in several:
        across = vector / norms(vector) - np.sum(vector * unit) / norms(vector) * unit
        ways.append(angle(vector, unit) * across / norms(across))
    np.testing.assert_allclose(weights @ np.array(ways), 0, atol=1e-5)
    assert norms(mean) == pytest.approx(weights @ [norms(vector) for vector in several], rel=1e-5)
    np.testing.assert_allclose(spherical_mean(several[::-1], list(weights[::-1])), mean, atol=1e-5)


def test_recipes_blend_directions_along_the_sphere_and_others_linearly():
    free = {name: Style(name, vectors(seed)) for seed, name in enumerate("ab")}
    fixed = {name: Style(name, style.tables, {"norm": "fixed"}) for name, style in free.items()}
    a, b = (style.tables["clip_l"] for style in free.values())
    half = mix("a+b:2,b:1-0", fixed)
    np.testing.assert_array_equal(half.tables["clip_l"][2], spherical_mean([a[2], b[2]], [0.5, 0.5]))
    np.testing.assert_allclose(half.tables["clip_l"][:2], b[:2], rtol=1e-6)
    np.testing.assert_allclose(angle(half.tables["clip_l"], a)[2], angle(half.tables["clip_l"], b)[2], rtol=1e-5)
    for styles in (free, {"a": free["a"], "b": fixed["b"]}):
        np.testing.assert_allclose(mix("a+b", styles).tables["clip_l"], (a + b) / 2, rtol=1e-6)
    assert jax.tree.leaves(mix("a*0.5+b*0.5", fixed).metadata["norm"]) == ["fixed"]
