"""Weights in prompts: what is read, what the rows of guidance keep of it, and what it does to the text states."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_tools import random_style
from tiny_model import WINDOW

from dreamstyler_jax import encoding, prompts
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.emphasis import escaped, has_weights, parse_weights, without_weights
from dreamstyler_jax.stable_diffusion.placeholders import PLAIN, Reading, count_windows, tokenize_with_placeholders

WEIGHTED = Reading(weighted=True)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a red house", [("a red house", 1)]),
        ("a (red:1.3) house", [("a ", 1), ("red", 1.3), (" house", 1)]),
        ("a (red) [house]", [("a ", 1), ("red", 1.1), (" ", 1), ("house", 1 / 1.1)]),
        ("((red:2) [old] house:0.5)", [("red", 1), (" ", 0.5), ("old", 0.5 / 1.1), (" house", 0.5)]),
        ("(red)(house)", [("redhouse", 1.1)]),
        ("(16:9: -.5)", [("16:9", -0.5)]),
        (r"a \(red\) \[house\] \\ \a", [(r"a (red) [house] \ \a", 1)]),
        (":) a house :( and ] (red", [(":) a house :( and ] (red", 1)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.1 / 1.1), (" c", 1 / 1.1)]),
        ("by ({a(1)}:1.2), {{(x:2)}}", [("by ", 1), ("{a(1)}", 1.2), (", {{", 1), ("x", 2), ("}}", 1)]),
        ("()", []),
    ],
)
def test_weights_as_people_write_them(prompt, pieces):
    read = parse_weights(prompt)
    assert [text for text, _ in read] == [text for text, _ in pieces]
    np.testing.assert_allclose([weight for _, weight in read], [weight for _, weight in pieces], rtol=1e-12)
    assert has_weights(prompt) == (pieces != [(prompt, 1)])
    assert without_weights(prompt) == "".join(text for text, _ in pieces)


@given(st.text(alphabet="ab()[]\\:1.{} ", max_size=30))
def test_escaped_text_is_text(text):
    assert without_weights(escaped(text)) == text
    assert all(weight == 1 for _, weight in parse_weights(escaped(text)))


def test_weights_beyond_all_reason_are_refused():
    with pytest.raises(UserError, match="the weight 200 of 'red' is out of range"):
        parse_weights("a (red:200) house")


@pytest.mark.parametrize(
    ("prompt", "context", "style"),
    [
        ("A painting of a (red:1.3) house in the style of {}", "A painting of a (red:1.3) house",
         "A painting in the style of {}"),
        ("a house (in the style of {}:1.3)", "a house", "A painting( in the style of {}:1.3)"),
        ("a house in the style of ({gogh}:1.3), [{wave}]", "a house",
         "A painting( in the style of {gogh}:1.3)(, {wave}:0.9090909090909091)"),
        ("(An oil painting:0.5) of a house, ({})", "(An oil painting:0.5) of a house",
         "(An oil painting:0.5)( in the style of {}:1.1)"),
        (r"a house \(red\) by {}", r"a house \(red\)", "A painting in the style of {}"),
        ("a {{house}} by {}", "a {{house}}", "A painting in the style of {}"),
    ],
)  # fmt: skip
def test_the_rows_of_guidance_keep_the_weights_of_what_they_keep(prompt, context, style):
    assert prompts.guidance_prompts(prompt, "(fog)", weighted=True) == ("(fog)", prompt, context, style, "")


@given(st.sampled_from(["a house", "A drawing of a cat, {{x}}"]), st.floats(0.01, 9))
def test_one_weight_for_all_is_kept_in_every_row(subject, weight):
    number = np.format_float_positional(weight)
    for row in prompts.guidance_prompts(f"({subject} in the style of {{}}:{number})", weighted=True)[2:4]:
        kept = [piece for piece in parse_weights(row) if piece[0] != "A painting"]
        assert [weight for _, weight in kept] == [float(number)]


def test_weights_stand_at_their_tokens(tiny):
    words = tiny.tokenizer.words
    ids, slots, weights = tokenize_with_placeholders(
        tiny.tokenizer, "a (red:1.5) ({}) dog", {"gogh": 2}, reading=WEIGHTED
    )
    expected = [1, *[1] * len(words("a ")), *[1.5] * len(words("red")), *[1.1] * 2, *[1] * len(words(" dog"))]
    np.testing.assert_allclose(weights, [*expected, *[1] * (WINDOW - len(expected))], rtol=1e-6)
    plain = tokenize_with_placeholders(tiny.tokenizer, "a red {} dog", {"gogh": 2})
    np.testing.assert_array_equal(ids, plain.ids)
    np.testing.assert_array_equal(slots, plain.slots)


LAYERED = random_style("layered", 8).tables["clip_l"].reshape(2, 4, 1, -1)


def states_of(model, texts, reading=PLAIN, **styles):
    return encoding.encode(model, texts, styles, reading).states


def test_weighted_states_are_scaled_and_keep_their_mean_stage_by_stage(tiny):
    gogh = random_style("gogh", stages=2)
    texts = ["a (red:1.5) dog by ({}:0.5)", "a dog by {}", r"a dog by {} \(\)"]
    plain = np.asarray(states_of(tiny, ["a red dog by {}", texts[1], "a dog by {} ()"], gogh=gogh))
    weighted = np.asarray(states_of(tiny, texts, WEIGHTED, gogh=gogh))
    assert weighted.shape == plain.shape == (3, 2, WINDOW, plain.shape[-1])
    np.testing.assert_array_equal(weighted[1:], plain[1:])
    weights = tokenize_with_placeholders(tiny.tokenizer, texts[0], {"gogh": 1}, reading=WEIGHTED).weights
    for before, after in zip(plain[0], weighted[0], strict=True):
        scaled = before * weights[:, None]
        np.testing.assert_allclose(after, scaled * before.mean() / scaled.mean(), rtol=1e-4, atol=1e-5)


def test_prompts_without_weights_are_the_program_that_they_were(tiny):
    """Nothing is compiled for them, and their states are the same, bit for bit."""
    gogh = random_style("gogh", stages=2)
    plain = states_of(tiny, ["a dog by {}"] * 3, gogh=gogh)
    before = encoding.encode_tokens._cache_size(), encoding.weigh._cache_size()
    np.testing.assert_array_equal(states_of(tiny, ["a dog by {}"] * 3, WEIGHTED, gogh=gogh), plain)
    assert (encoding.encode_tokens._cache_size(), encoding.weigh._cache_size()) == before


def test_layers_have_weights_as_stages_do(tiny):
    layered = type(random_style("x"))("layered", {"clip_l": LAYERED})
    plain = states_of(tiny, ["a red dog by {}"] * 3, layered=layered)
    weighted = states_of(tiny, ["a (red:1.5) dog by {}"] * 3, WEIGHTED, layered=layered)
    assert len(plain) == len(weighted) == 4
    for before, after in zip(plain, weighted, strict=True):
        assert np.abs(np.asarray(after - before)).max() > 0.01
        np.testing.assert_allclose(np.asarray(after).mean((-2, -1)), np.asarray(before).mean((-2, -1)), atol=1e-5)


# Long prompts


def test_long_prompts_fill_windows_and_never_part_a_style(tiny):
    tokenizer, room = tiny.tokenizer, WINDOW - 2
    (red,) = tokenizer.words("red")
    for before, windows in ((room - 2, 1), (room - 1, 2), (room, 2), (2 * room - 1, 3)):
        text = "red " * before + "({}:2)"
        assert count_windows(tokenizer, text, {"gogh": 2}, weighted=True) == windows
        ids, slots, weights = (
            rows.reshape(windows, WINDOW)
            for rows in tokenize_with_placeholders(tokenizer, text, {"gogh": 2}, reading=Reading(True, windows))
        )
        assert (ids[:, 0] == tokenizer.bos_id).all() and (ids == red).sum() == before
        assert [list(row[row >= 0]) for row in slots] == [[]] * (windows - 1) + [[0, 1]]
        np.testing.assert_array_equal(weights == 2, slots >= 0)
        assert all(tokenizer.eos_id in row for row in ids)
    with pytest.raises(UserError, match="beyond the"):
        tokenize_with_placeholders(tokenizer, "{}", {"gogh": WINDOW}, reading=Reading(windows=2))


def test_each_window_is_encoded_by_itself(tiny):
    gogh = random_style("gogh", stages=2)
    first, second = "red " * (WINDOW - 2), "a dog by {}"
    long = np.asarray(states_of(tiny, [first + second], Reading(windows=2), gogh=gogh))
    alone = np.asarray(states_of(tiny, [first, second], gogh=gogh))
    np.testing.assert_allclose(long[0], np.concatenate(alone, axis=1), atol=1e-6)
    short = np.asarray(states_of(tiny, [second], Reading(windows=2), gogh=gogh))
    np.testing.assert_allclose(short[0], np.concatenate(states_of(tiny, [second, ""], gogh=gogh), axis=1), atol=1e-6)


def test_sdxl_weighs_the_states_of_each_encoder_and_pools_the_first_window(sdxl):
    widths = list(sdxl.networks.text_widths.values())
    window = sdxl.tokenizer.max_length
    first, second = "red " * (window - 2), "a (dog:1.5)"
    weighted = encoding.encode(sdxl, [first + second], {}, Reading(True, 2))
    plain = encoding.encode(sdxl, [first, "a dog"], {})
    np.testing.assert_allclose(weighted.pooled[0], plain.pooled[0], atol=1e-6)
    weights = tokenize_with_placeholders(sdxl.tokenizer, first + second, {}, reading=Reading(True, 2)).weights
    before = np.concatenate(np.asarray(plain.states), axis=1)[0]
    for ours, states in zip(
        *(np.split(x, widths[:1], axis=-1) for x in (np.asarray(weighted.states)[0, 0], before)), strict=True
    ):
        scaled = states * weights[:, None]
        np.testing.assert_allclose(ours, scaled * states.mean() / scaled.mean(), rtol=1e-4, atol=1e-5)
