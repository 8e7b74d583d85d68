"""Captions without the words about their style: nothing of the subject is lost, and nothing is removed twice."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamstyler_jax.captioning.style_words import without_style
from dreamstyler_jax.mini.world import captions, manners, scenes
from dreamstyler_jax.prompts import context_only

SUBJECTS = [
    "a house by the sea",
    "two boats in the harbor at night",
    "a black and white cat sitting on a chair",
    "a woman in a red dress holding a painting of a dog",
    "a man painting a picture of a mountain",
    "a room with a painting on the wall",
    "a portrait on an easel in a studio, with brushes in a jar",
    "a bridge by John's garden, after the rain",
    "a boat by Tower Bridge",
    "a woman dressed in black and white",
    "a picture frame on a table",
    "a stained glass window of a church",
    "a wall of canvas bags",
    "a fish in oil on a plate",
    "a child with a crayon drawing on paper",
    "a crowd in front of a mosaic",
    "a church in a gothic style",
    "a stylish woman, with hair like gold",
    "a close up of a flower",
    "a starry night over the rhone",
]
BEFORE = [
    "a painting of ",
    "an oil painting of ",
    "a watercolor painting of ",
    "a black and white drawing of ",
    "arafed image of ",
    "there is ",
    "The image shows ",
    "This is a vibrant, expressive painting of ",
    "a painting by claude monet of ",
    "a painting of a painting of ",
    "a ukiyo-e woodblock print of ",
    "In this painting, we can see ",
    "a close up of a painting of ",
    "Vincent van Gogh painting of ",
]
AFTER = [
    "",
    ".",
    " by vincent van gogh",
    ", by Claude Monet",
    " in the style of van gogh",
    " in the style of an unknown flemish master",
    ", in the style of picasso and braque",
    " in an impressionist style",
    " in a loose, watercolor style",
    ", oil on canvas",
    ", painted in oils",
    ", painted by the artist Egon Schiele",
    ", drawn by an unknown artist",
    ", with thick swirling brush strokes and bold colors",
    ", using visible brushwork",
    ", inspired by monet",
    " in warm, muted tones",
    ", impressionism, highly detailed, trending on artstation",
    ". The brushstrokes are loose and visible.",
    ". Overall, the painting has a calm mood. The colors are vibrant.",
]


@given(
    st.sampled_from(SUBJECTS),
    st.sampled_from(["", "there is arafed image of ", "a painting of ", "there is a drawing of "]),
    st.sampled_from(["", *BEFORE]),
    st.sampled_from(AFTER),
)
def test_the_subject_stays_whole_whatever_is_around_it(subject, first, second, after):
    description, removed = without_style(first + second + subject + after)
    assert description == subject
    assert bool(removed) == bool(first or second or after.strip("."))


@given(st.sampled_from(SUBJECTS), st.sampled_from(SUBJECTS))
def test_further_sentences_about_the_subject_stay(first, second):
    said = f"The image is a painting of {first}. There is {second}. The painting is signed."
    assert without_style(said)[0] == f"{first}, {second}"


@settings(max_examples=50)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from([*BEFORE, *SUBJECTS, *AFTER, "by", "style", ",", "."])).map(" ".join)
)
def test_removing_again_changes_nothing_and_nothing_is_invented(said):
    description, _ = without_style(said)
    assert without_style(description) == (description, ())
    words = iter(said.replace(".", " ").replace(",", " ").split())
    assert all(word in words for word in description.replace(".", " ").replace(",", " ").split())


@given(*(st.integers(0, len(words) - 1) for words in scenes.ATTRIBUTES.values()), st.data())
def test_all_scenes_of_the_embedded_model_lose_their_style_alone(subject, colour, place, time, data):
    scene = captions.describe(subject, colour, place, time)
    assert without_style(scene) == (scene, ())
    palette, words = data.draw(st.sampled_from([*manners.PALETTES])), sum(captions.TECHNIQUE_WORDS.values(), ())
    ending = data.draw(st.sampled_from([f" in the style of {word}" for word in words] + [f" in {palette} colours", ""]))
    assert without_style(f"a painting of {scene}{ending}")[0] == scene


@pytest.mark.parametrize(
    ("said", "description"),
    [
        ("vincent van gogh's starry night over the rhone", "starry night over the rhone"),
        ("a portrait of vincent van gogh", "vincent van gogh"),
        ("a picasso-like guitar on a table", "a guitar on a table"),
        ("a photo of a mosaic of a bird on a floor", "a bird on a floor"),
        ('"a poster of a dog"', "a dog"),
        ("a vase of flowers with a blue background and", "a vase of flowers with a blue background"),
        ("a painting", ""),
        ("a landscape in black and white", "a landscape"),
        ("the sea, in a style similar to turner, at night", "the sea, at night"),
    ],
)
def test_examples(said, description):
    assert without_style(said)[0] == description


def test_what_was_removed_is_told_in_full():
    _, removed = without_style("a watercolor painting of a house by the sea, by Claude Monet")
    assert removed == ("a watercolor painting of", "by Claude Monet")


def test_a_prompt_made_of_it_has_the_parts_of_the_paper():
    description, _ = without_style("a watercolor painting of a house by the sea")
    assert context_only(f"A painting of {description}, in the style of {{}}") == f"A painting of {description}"
