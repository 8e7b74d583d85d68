"""Placeholders in prompts: where they are, which style they stand for, and what does not fit."""

import warnings

import numpy as np
import pytest
from clip_vocabulary import write_clip_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.placeholders import Placeholder, parse_prompt, tokenize_with_placeholders
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer

STYLE_OF = [49406, 320, 3086, 530, 518, 1844, 539]  # BOS, "a painting in the style of"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Tokenizer.from_folder(write_clip_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def small():
    return Tokenizer.train(["A painting of a house in the style of Hokusai"], 600)


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a {b} c", ["a ", Placeholder("b"), " c"]),
        ("{}", [Placeholder("")]),
        ("{ van gogh }{x}", [Placeholder("van gogh"), Placeholder("x")]),
        ("a {{b}} {{{c}}}", ["a {b} {", Placeholder("c"), "}"]),
        ("", []),
        ("plain", ["plain"]),
    ],
)
def test_prompts_are_cut_at_their_placeholders(prompt, parts):
    assert parse_prompt(prompt) == parts


@pytest.mark.parametrize("prompt", ["a { b", "a } b", "{a{b}", "{a}}"])
def test_single_braces_are_refused(prompt):
    with pytest.raises(UserError, match="twice for a literal brace"):
        parse_prompt(prompt)


def test_one_style_takes_the_placeholder_by_either_name(clip):
    ids, slots, _ = tokenize_with_placeholders(clip, "a painting in the style of {}", {"gogh": 1})
    assert ids.dtype == slots.dtype == np.int32 and ids.shape == slots.shape == (77,)
    assert ids.tolist() == [*STYLE_OF, clip.filler_id, 49407] + [49407] * 68
    assert slots.tolist() == [-1] * 7 + [0] + [-1] * 69
    assert clip.filler_id not in (clip.bos_id, clip.eos_id, clip.pad_id)
    named, named_slots, _ = tokenize_with_placeholders(clip, "a painting in the style of {gogh}", {"gogh": 1})
    assert (named == ids).all() and (named_slots == slots).all()


def test_several_styles_of_several_vectors(clip):
    counts = {"gogh": 2, "monet": 1, "cat": 3}
    ids, slots, _ = tokenize_with_placeholders(clip, "{cat}, in the style of {gogh}and {cat}", counts)
    assert slots[:13].tolist() == [-1, 3, 4, 5, -1, -1, -1, -1, -1, 0, 1, -1, 3]
    assert slots[13:].tolist() == [4, 5] + [-1] * 62
    assert ids[slots < 0][:9].tolist() == [49406, 267, 530, 518, 1844, 539, 537, 49407, 49407]


def test_plain_prompts_and_literal_braces(clip):
    ids, slots, _ = tokenize_with_placeholders(clip, "a {{x}} b", {})
    assert ids.tolist() == clip(["a {x} b"])[0].tolist() and (slots == -1).all()
    with pytest.raises(UserError, match="no placeholder"):
        tokenize_with_placeholders(clip, "a {{x}} b", {"gogh": 1}, required=True)
    tokenize_with_placeholders(clip, "a {}", {"gogh": 1}, required=True)


def test_unknown_and_ambiguous_names_are_refused(clip):
    with pytest.raises(UserError, match="no style was given"):
        tokenize_with_placeholders(clip, "a {}", {})
    with pytest.raises(UserError, match=r"exactly one style and 2 were given: write one of \{\w+\}, \{\w+\}"):
        tokenize_with_placeholders(clip, "a {}", {"gogh": 1, "monet": 1})
    with pytest.raises(UserError, match=r"unknown style \{Manet\}: write one of \{monet\}, \{gogh\}"):
        tokenize_with_placeholders(clip, "a {Manet}", {"gogh": 1, "monet": 1})


def test_placeholders_beyond_the_window_are_refused_and_cut_text_warns(clip):
    fits = "x " * 73 + "{}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids, slots, _ = tokenize_with_placeholders(clip, fits, {"gogh": 2})
    assert slots[-3:].tolist() == [0, 1, -1] and ids[-1] == clip.eos_id
    with pytest.raises(UserError, match=r"1 token\(s\) beyond the 77-token window: shorten") as caught:
        tokenize_with_placeholders(clip, "x " + fits, {"gogh": 2})
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"20 token\(s\) beyond"):
        tokenize_with_placeholders(clip, "x " * 94 + "{} and\nmore", {"gogh": 1})
    with pytest.warns(UserWarning, match=r"2 token\(s\) too long; cut: 'tree house'"):
        ids, slots, _ = tokenize_with_placeholders(clip, fits + " tree house", {"gogh": 2})
    assert slots[-3:].tolist() == [0, 1, -1] and ids[-1] == clip.eos_id


@settings(max_examples=200, deadline=None)
@given(
    before=st.text(max_size=20).map(lambda t: t.replace("{", "").replace("}", "")),
    after=st.text(max_size=20).map(lambda t: t.replace("{", "").replace("}", "")),
    count=st.integers(1, 4),
)
def test_text_around_a_placeholder_tokenises_as_around_a_word(small, before, after, count):
    if len(small.words(before)) + len(small.words(after)) + count > 75:
        return
    ids, slots, _ = tokenize_with_placeholders(small, f"{before}{{}}{after}", {"s": count})
    content = ids[1:][slots[1:] < 0]
    expected = [*small.words(before), *small.words(after), small.eos_id]
    assert content[: len(expected)].tolist() == expected
    start = 1 + len(small.words(before))
    assert slots[start : start + count].tolist() == list(range(count))
    assert (slots >= 0).sum() == count and (slots == -1).sum() == 77 - count
