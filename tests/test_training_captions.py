"""Prompts that captioners' words are made into, and the study of captions on the embedded model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax.captioning.vision_language import MAX_TOKENS, training_caption
from dreamstyler_jax.choices import Template
from dreamstyler_jax.foreign_syntax import foreign_syntax
from dreamstyler_jax.mini.studies import captioning
from dreamstyler_jax.mini.studies.training_captions import TRAINING_CAPTIONS, wrong
from dreamstyler_jax.mini.world import scenes
from dreamstyler_jax.prompts import context_only, names_in
from dreamstyler_jax.stable_diffusion.emphasis import has_weights
from dreamstyler_jax.stable_diffusion.placeholders import parse_prompt, tokenize_with_placeholders
from dreamstyler_jax.stable_diffusion.single_files.vocabulary import clip_tokenizer

BOAT = np.array([2, 0, 0, 1])


def test_a_caption_becomes_a_prompt_in_the_papers_form():
    said = "The image shows an oil painting of A red boat by the sea. The brushwork is loose."
    prompt, left_out, unsure = training_caption(said)
    assert prompt == "A painting of a red boat by the sea, in the style of {}"
    assert context_only(prompt) == "A painting of a red boat by the sea"
    assert "The brushwork is loose." in left_out and unsure == ()
    assert training_caption("an abstract painting").prompt == ""


@given(st.lists(st.sampled_from(["a red boat", "two old men", "ships, by the sea,", "|"]), min_size=1, max_size=40))
def test_every_prompt_fits_the_text_encoder_with_its_style(phrases):
    prompt, left_out, _ = training_caption(" ".join(phrases))
    assert names_in(prompt) == [""]
    _, slots, _ = tokenize_with_placeholders(TOKENIZER, prompt, {"": 16}, required=True)
    assert (slots >= 0).sum() == 16
    assert bool(left_out) == (len(TOKENIZER.words(" ".join(phrases).rstrip(","))) > MAX_TOKENS)


@given(
    st.lists(
        st.sampled_from(["a (red:1.3) boat", "{old|new}", "[", "__sky__", "___", "\\(", "{", "}}", "2$$"]), min_size=1
    )
)
def test_a_caption_is_text_in_every_notation_of_prompts(words):
    """Training reads brackets as text, and painting as weights: the prompt is the same text for both."""
    prompt, _, _ = training_caption("a boat with " + " ".join(words) + " on it")
    assert not has_weights(prompt) and not foreign_syntax([prompt])
    assert Template.read(prompt, "no/folder").versions() == [prompt]
    text, style = parse_prompt(prompt)
    assert f"{text}{style}" == prompt


def test_words_in_notation_stay_without_it():
    prompt, _, _ = training_caption("a (very:1.2) red {boat|ship} with __name__ on it")
    assert prompt == "A painting of a very:1.2 red boat|ship with _name_ on it, in the style of {}"


TOKENIZER = clip_tokenizer()


@pytest.mark.parametrize("kind", ["wrong subject", "all wrong"])
def test_a_wrong_caption_is_wrong_about_what_it_says(kind):
    true, other = (TRAINING_CAPTIONS[name](BOAT, None, None) for name in ("true", kind))
    assert true == "A painting of a red boat by the sea at sunset in the style of {}"
    assert "boat" not in other and ("red" in other and "sunset" in other) == (kind == "wrong subject")
    for subject in range(len(scenes.SUBJECTS)):
        label = np.array([subject, 0, 0, 0])
        assert (wrong(label, 4) != label).all() and (wrong(label, 1)[1:] == label[1:]).all()


def test_shares_of_right_captions():
    shown = np.array([[0, 1, 2, 0], [3, 1, 2, 1]])
    answers = shown.copy()
    answers[1, 0] = 5
    shares = captioning.shares_right(answers, shown)
    assert (shares["subject"], shares["colour"], shares["all attributes"], shares["whole captions"]) == (
        0.5,
        1,
        7 / 8,
        0.5,
    )
    line = captioning.announced({"judge": answers, "clip": shown}, shown)
    assert line == "12.5% of the words are unsure, in 50.0% of the captions; of 1 wrong words 1 are"
    assert "| subject | 50.0% |" in captioning.table({"held-out": shares})
