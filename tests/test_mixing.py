"""Recipes for new styles out of several."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax.mixing import mix, parse_recipe
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.style import Style

T, V, D = 6, 2, 3


def style(name, stages=T, vectors=V):
    rng = np.random.default_rng(sum(map(ord, name)))
    return Style(name, rng.standard_normal((stages, vectors, D), np.float32))


STYLES = {name: style(name) for name in ("gogh", "monet", "my cat")} | {"flat": style("flat", stages=1)}
GOGH, MONET = STYLES["gogh"].table, STYLES["monet"].table


def test_each_stage_takes_the_vectors_of_the_style_named_for_it():
    mixed = mix("gogh:5-3, monet:2-0", STYLES)
    np.testing.assert_array_equal(mixed.table, np.concatenate([MONET[:3], GOGH[3:]]))
    assert mixed.name == "gogh:5-3, monet:2-0"
    assert mixed.metadata["hashes"] == {"gogh": STYLES["gogh"].hash, "monet": STYLES["monet"].hash}


@given(st.permutations(range(T)), st.integers(1, T - 1))
def test_any_division_of_the_stages(order, cut):
    recipe = ",".join(f"{'gogh' if i < cut else 'monet'}:{stage}" for i, stage in enumerate(order))
    mixed = mix(recipe, STYLES)
    for i, stage in enumerate(order):
        np.testing.assert_array_equal(mixed.table[stage], (GOGH if i < cut else MONET)[stage])


def test_blends_by_weight_stage_by_stage():
    np.testing.assert_allclose(mix("gogh*0.7+monet*0.3", STYLES).table, 0.7 * GOGH + 0.3 * MONET, rtol=1e-6)
    np.testing.assert_allclose(mix("gogh * 1.5 + monet * -0.5", STYLES).table, 1.5 * GOGH - 0.5 * MONET, rtol=1e-5)
    mixed = mix("gogh+my cat:3-5,monet:0-2", STYLES)
    np.testing.assert_allclose(mixed.table[3:], (GOGH[3:] + STYLES["my cat"].table[3:]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(mixed.table[:3], MONET[:3])


def test_a_style_of_one_stage_holds_for_all():
    mixed = mix("flat:5-3,monet:2-0", STYLES)
    np.testing.assert_array_equal(mixed.table[3:], np.broadcast_to(STYLES["flat"].table, (3, V, D)))
    assert mix("flat", STYLES).stages == 1


def test_weights_add_up_whatever_is_said_of_them():
    for recipe in ("gogh", "gogh+monet+flat", "gogh*0.25+monet*0.75", "gogh*2+monet*-1"):
        (part,) = parse_recipe(recipe)
        assert sum(part.weights.values()) == pytest.approx(1) and part.stages is None


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("", "should read like"),
        ("gogh:", "should read like"),
        ("gogh:5-", "should read like"),
        ("gogh:a-b", "should read like"),
        ("gogh*x", "should read like"),
        ("gogh++monet", "should read like"),
        ("gogh,monet", "must say its stages"),
        ("gogh*0.7+monet*0.7", "add up to 1"),
        ("gogh*0.7+monet", "add up to 1"),
        ("gogh+gogh", "twice in one blend"),
        ("gog:5-0", "styles at hand are gogh, monet, my cat, flat"),
        ("gogh:5-3,monet:1-0", "leaves a stage out, 2"),
        ("gogh:5-2,monet:2-0", "gives a stage twice, 2"),
        ("gogh:6-0", "not there, 6"),
        ("gogh+four", "gogh has 6, four has 4"),
        ("gogh+wide", "gogh has 2 of width 3, wide has 1 of width 3"),
    ],
)
def test_mistakes_are_explained(recipe, says):
    styles = STYLES | {"four": style("four", stages=4), "wide": style("wide", vectors=1)}
    with pytest.raises(UserError, match=says):
        mix(recipe, styles)
