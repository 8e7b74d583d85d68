"""Recipes for new styles from several."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax.mixing import mix, parse_recipe
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.style import Style, StyleRef

T, V, D = 6, 2, 3


def style(name, stages=T, vectors=V):
    rng = np.random.default_rng(sum(map(ord, name)))
    return Style(name, rng.standard_normal((stages, vectors, D), np.float32))


STYLES = {name: style(name) for name in ("gogh", "monet", "my cat")} | {"flat": style("flat", stages=1)}
GOGH, MONET, FLAT = (STYLES[name].tables["clip_l"] for name in ("gogh", "monet", "flat"))


def table_of(recipe, styles=STYLES):
    return mix(recipe, styles).tables["clip_l"]


def test_each_stage_takes_the_vectors_of_the_style_named_for_it():
    mixed = mix("gogh:5-3, monet:2-0", STYLES)
    np.testing.assert_array_equal(mixed.tables["clip_l"], np.concatenate([MONET[:3], GOGH[3:]]))
    assert mixed.name == "gogh:5-3, monet:2-0"
    assert mixed.metadata["hashes"] == {"gogh": STYLES["gogh"].hash, "monet": STYLES["monet"].hash}


@given(st.permutations(range(T)), st.integers(1, T - 1))
def test_any_division_of_the_stages(order, cut):
    recipe = ",".join(f"{'gogh' if i < cut else 'monet'}:{stage}" for i, stage in enumerate(order))
    mixed = table_of(recipe)
    for i, stage in enumerate(order):
        np.testing.assert_array_equal(mixed[stage], (GOGH if i < cut else MONET)[stage])


def test_blends_by_weight_stage_by_stage():
    np.testing.assert_allclose(table_of("gogh*0.7+monet*0.3"), 0.7 * GOGH + 0.3 * MONET, rtol=1e-6)
    np.testing.assert_allclose(table_of("gogh * 1.5 + monet * -0.5"), 1.5 * GOGH - 0.5 * MONET, rtol=1e-5)
    mixed = table_of("gogh+my cat:3-5,monet:0-2")
    np.testing.assert_allclose(mixed[3:], (GOGH[3:] + STYLES["my cat"].tables["clip_l"][3:]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(mixed[:3], MONET[:3])


def test_a_style_of_one_stage_holds_for_all():
    mixed = table_of("flat:5-3,monet:2-0")
    np.testing.assert_array_equal(mixed[3:], np.broadcast_to(FLAT, (3, V, D)))
    assert mix("flat*1", STYLES).stages == 1


def test_the_weights_of_a_blend_add_up_to_one():
    for recipe in ("gogh", "gogh+monet+flat", "gogh*0.25+monet*0.75", "gogh*2+monet*-1"):
        (part,) = parse_recipe(recipe).parts
        assert sum(part.weights.values()) == pytest.approx(1) and part.stages is None


def test_every_text_encoder_is_mixed_alike():
    """A style of two tables gives what each table gives alone."""
    one = {name: style(name) for name in ("a", "b")}
    other = {name: style(name + name) for name in ("a", "b")}
    both = {
        name: Style(name, {"clip_l": one[name].tables["clip_l"], "clip_g": other[name].tables["clip_l"]})
        for name in ("a", "b")
    }
    for recipe in ("a:5-3,b:2-0", "a*0.3+b*0.7", "b+a:0-1,a*2+b*-1:2-5"):
        mixed = mix(recipe, both)
        assert set(mixed.tables) == {"clip_l", "clip_g"}
        np.testing.assert_array_equal(mixed.tables["clip_l"], table_of(recipe, one))
        np.testing.assert_array_equal(mixed.tables["clip_g"], table_of(recipe, other))
    with pytest.raises(UserError, match="one number of vectors: a has 2 of width 3/3, b has 2 of width 3"):
        mix("a+b", both | {"b": one["b"]})


def layered(name, layers=4, stages=T):
    rng = np.random.default_rng(len(name))
    return Style(name, rng.standard_normal((stages, layers, V, D), np.float32))


def test_layers_are_mixed_like_stages():
    styles = STYLES | {"each": layered("each"), "all": layered("all", stages=1)}
    each, everywhere = styles["each"].tables["clip_l"], styles["all"].tables["clip_l"]
    mixed = table_of("each:layers 0-2, all:layer 3", styles)
    np.testing.assert_array_equal(mixed[:, :3], each[:, :3])
    np.testing.assert_array_equal(mixed[:, 3:], np.broadcast_to(everywhere[:, 3:], (T, 1, V, D)))
    mixed = table_of("each*0.25+gogh*0.75", styles)
    np.testing.assert_allclose(mixed, 0.25 * each + 0.75 * GOGH[:, None], rtol=1e-5, atol=1e-6)
    mixed = table_of("gogh:5-3,each:2-0 layers 3-1,monet:2-0 layers 0", styles)
    np.testing.assert_array_equal(mixed[3:], np.broadcast_to(GOGH[3:, None], (3, 4, V, D)))
    np.testing.assert_array_equal(mixed[:3, 1:], each[:3, 1:])
    np.testing.assert_array_equal(mixed[:3, 0], MONET[:3])


def test_styles_without_layers_can_be_mixed_by_layer():
    mixed = mix("gogh:layers 0-6,monet:layers 7-15", STYLES)
    assert (mixed.stages, mixed.layers) == (T, 16)
    np.testing.assert_array_equal(mixed.tables["clip_l"][:, 6], GOGH)
    np.testing.assert_array_equal(mixed.tables["clip_l"][:, 7], MONET)
    alone = mix("gogh:layers 0-3", STYLES).tables["clip_l"]
    np.testing.assert_array_equal(alone, np.broadcast_to(GOGH[:, None], (T, 4, V, D)))


@given(st.lists(st.booleans(), min_size=3 * 4, max_size=3 * 4))
def test_any_division_of_stages_and_layers(choices):
    styles = {name: layered(name, stages=3) for name in ("a", "bb")}
    choices = np.reshape(choices, (3, 4))
    parts = [f"{'bb' if choice else 'a'}:{t} layer {k}" for (t, k), choice in np.ndenumerate(choices)]
    expected = np.where(choices[..., None, None], styles["bb"].tables["clip_l"], styles["a"].tables["clip_l"])
    np.testing.assert_array_equal(table_of(",".join(parts[::-1]), styles), expected)


def test_recipes_may_name_training_steps():
    styles = {"gogh": STYLES["gogh"], "gogh@100": style("gogh@100"), "monet@20": style("monet@20")}
    mixed = mix("gogh@100:5-3, monet@20:2, gogh:1-0", styles)
    early, monet = styles["gogh@100"].tables["clip_l"], styles["monet@20"].tables["clip_l"]
    np.testing.assert_array_equal(mixed.tables["clip_l"], np.concatenate([GOGH[:2], monet[2:3], early[3:]]))
    assert mixed.metadata["hashes"] == {ref: styles[ref].hash for ref in ("gogh@100", "monet@20", "gogh")}
    assert parse_recipe("gogh@100*0.5+gogh*0.5").refs == [StyleRef("gogh", 100), StyleRef("gogh")]
    with pytest.raises(UserError, match=r"names 'gogh@50'; the styles given are gogh, gogh@100, monet@20$"):
        mix("gogh@50+gogh", styles)


def test_a_recipe_that_was_read_gives_the_same_as_its_text():
    recipe = parse_recipe("gogh:5-3,monet*0.5+gogh*0.5:2-0")
    ours, other = mix(recipe, STYLES), mix(recipe.text, STYLES)
    assert (ours.name, ours.metadata, ours.hash) == (other.name, other.metadata, other.hash)


def test_the_name_of_a_style_is_that_style():
    assert mix("my cat", STYLES) is STYLES["my cat"]
    odd = {"a+b": style("a+b")}
    assert mix("a+b", odd) is odd["a+b"], "even if it reads like a recipe"


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("", "should read like"),
        ("gogh:", "should read like"),
        ("gogh:5-", "should read like"),
        ("gogh:a-b", "should read like"),
        ("gogh*x", "should read like"),
        ("gogh++monet", "should read like"),
        ("gogh: layers", "should read like"),
        ("gogh:layers 3-", "should read like"),
        ("gogh:layers 0-3 5-3", "should read like"),
        ("gogh,monet", "must say its stages or layers"),
        ("gogh:layers 0-2,monet", "must say its stages or layers"),
        ("gogh:layers 0-2,monet:layers 4-5", "leaves a layer of stage 0 out, 3: there are 6, 0 to 5"),
        ("gogh:5-3,monet:2-0 layers 0-3,gogh:1 layer 2", "gives a layer of stage 1 twice, 2: there are 4, 0 to 3"),
        ("each:layers 0-4", "names a layer that is not there, 4: there are 4, 0 to 3"),
        ("each:layers 0-2,gogh:layer 4", "names a layer that is not there, 4"),
        ("each+more", "one number of layers: each has 4, more has 5"),
        ("gogh*0.7+monet*0.7", "add up to 1"),
        ("gogh*0.7+monet", "add up to 1"),
        ("gogh+gogh", "twice in one blend"),
        ("gog:5-0", "the styles given are gogh, monet, my cat, flat"),
        ("gogh:5-3,monet:1-0", "leaves a stage out, 2"),
        ("gogh:5-2,monet:2-0", "gives a stage twice, 2"),
        ("gogh:6-0", "not there, 6"),
        ("gogh+four", "gogh has 6, four has 4"),
        ("gogh+wide", "gogh has 2 of width 3, wide has 1 of width 3"),
    ],
)
def test_mistakes_are_explained(recipe, says):
    styles = STYLES | {"four": style("four", stages=4), "wide": style("wide", vectors=1)}
    styles |= {"each": layered("each"), "more": layered("more", layers=5)}
    with pytest.raises(UserError, match=says):
        mix(recipe, styles)
