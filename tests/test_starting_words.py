"""The words that a style starts from, chosen by the model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dreamstyler_jax import starting_words, training
from dreamstyler_jax.encoding import initial_tables
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.starting_words import NEUTRAL, WORDS, _lowest, known_words
from dreamstyler_jax.stopping import evaluation_batch, evaluation_losses
from dreamstyler_jax.train_settings import TrainSettings

pytestmark = pytest.mark.usefixtures("one_compilation")
STAGES = 3
PICTURES = {"a.png": Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))}


@pytest.fixture(autouse=True)
def some_words(monkeypatch):
    """Words of which the tiny model knows all but the last."""
    monkeypatch.setattr(starting_words, "WORDS", ("drawing", "sea", "house", "dog", "red", "mosaic"))


def lesson_of(model, **settings):
    prompts = ["a red house in the style of {}"]
    return training.prepare(model, "s", PICTURES, prompts, TrainSettings(stages=STAGES, batch_size=3, **settings))


def test_each_stage_starts_from_the_words_with_which_the_model_denoises_the_picture_best(tiny):
    lesson = lesson_of(tiny, vectors=2, init_word="auto")
    batch = evaluation_batch(lesson.dataset, STAGES)

    def losses(word):
        tables = initial_tables(tiny, [word] * STAGES, 2)
        return evaluation_losses(tiny.networks, tiny.params, tables, batch).reshape(STAGES, -1).mean(1)

    words = known_words(tiny.tokenizers)
    table = np.array([losses(word) for word in words])
    expected = [" ".join(words[i] for i in np.argsort(column)[:2]) for column in table.T]
    assert len(set(expected)) > 1, "stages differ, or this would not tell them apart"
    assert lesson.style.metadata["starting_words"] == expected
    start = initial_tables(tiny, expected, 2)["clip_l"]
    np.testing.assert_array_equal(lesson.style.tables["clip_l"], start)


def test_layers_start_alike_and_fixed_norms_keep_the_directions(tiny):
    words = lesson_of(tiny, init_word="auto").style.metadata["starting_words"]
    start = initial_tables(tiny, words, 1)["clip_l"]
    each = lesson_of(tiny, init_word="auto", layers="each").style
    assert each.metadata["starting_words"] == words
    np.testing.assert_array_equal(each.tables["clip_l"], np.repeat(start[:, None], each.layers, 1))
    fixed = lesson_of(tiny, init_word="auto", norm="fixed").style.tables["clip_l"]
    cosines = (fixed * start).sum(-1) / np.linalg.norm(fixed, axis=-1) / np.linalg.norm(start, axis=-1)
    np.testing.assert_allclose(cosines, 1, atol=1e-5)


def test_the_held_out_pictures_have_no_say(tiny):
    def words_of(pictures, **settings):
        prompts = ["a red house in the style of {}"] * len(pictures)
        settings = TrainSettings(stages=STAGES, init_word="auto", **settings)
        return training.prepare(tiny, "s", pictures, prompts, settings).style.metadata["starting_words"]

    both = {**PICTURES, "b.png": Image.new("RGB", (16, 16), "red")}
    assert words_of(both, held_out=1, evaluate_every=10) == words_of(PICTURES)


def test_a_model_is_asked_about_words_that_are_one_of_its_tokens(tiny):
    assert known_words(tiny.tokenizers) == [NEUTRAL, "drawing", "sea", "house", "dog", "red"]


def test_the_list_holds_words_and_none_twice():
    assert all(word.isalpha() and word.islower() for word in WORDS)
    assert len(set(WORDS)) == len(WORDS) > 150
    assert NEUTRAL not in WORDS


@given(st.lists(st.lists(st.floats(0, 9), min_size=2, max_size=2), min_size=1, max_size=6), st.integers(1, 4))
def test_words_are_ranked_in_each_stage_by_themselves(losses, count):
    for stage, order in enumerate(_lowest(losses, count)):
        of_stage = [row[stage] for row in losses]
        assert [of_stage[i] for i in order] == sorted(of_stage)[:count]


def test_an_object_needs_a_word_of_its_own():
    with pytest.raises(UserError, match="say in a word what kind of thing"):
        TrainSettings(property="object", init_word="auto")
