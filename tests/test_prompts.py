"""Prompts without their style or context, learned vectors among the words, and what the text encoder makes of them."""

import math
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax import prompts
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.schedule import stage_of
from dreamstyler_jax.stable_diffusion.tokenizer import parse_prompt, tokenize_with_placeholders
from dreamstyler_jax.style import Style

# prompt, without its style, without its context
WORDINGS = [
    ("A painting of a house in the style of {}", "A painting of a house", "A painting in the style of {}"),
    ("A painting of a house, in the style of {}", "A painting of a house", "A painting in the style of {}"),
    ("A painting of a house in the style of {gogh}", "A painting of a house", "A painting in the style of {gogh}"),
    ("A painting of men by the sea in style of {}", "A painting of men by the sea", "A painting in the style of {}"),
    ("A PAINTING OF A HOUSE IN THE STYLE OF {}", "A PAINTING OF A HOUSE", "A PAINTING in the style of {}"),
    ("A painting of a house\nin the  style of {} .", "A painting of a house.", "A painting in the style of {}"),
    ("A painting in the style of {}", "A painting", "A painting in the style of {}"),
    ("In the style of {}, a house", "a house", "A painting in the style of {}"),
    ("in the style of {}: a house", "a house", "A painting in the style of {}"),
    ("a house, painted by {van gogh}, at night", "a house, at night", "A painting in the style of {van gogh}"),
    ("a dog by {}", "a dog", "A painting in the style of {}"),
    ("a dog by the river by {}", "a dog by the river", "A painting in the style of {}"),
    ("a dog inspired by {}", "a dog", "A painting in the style of {}"),
    ("a castle in the manner of {x} & {y}", "a castle", "A painting in the style of {x}, {y}"),
    ("a house in the {} style at night", "a house at night", "A painting in the style of {}"),
    ("a house with a {} style", "a house", "A painting in the style of {}"),
    ("a house in {}", "a house", "A painting in the style of {}"),
    ("a house, {}-style", "a house", "A painting in the style of {}"),
    ("A house ({})", "A house", "A painting in the style of {}"),
    ("A {} painting of a dog", "A painting of a dog", "A painting in the style of {}"),
    ("{}", "", "A painting in the style of {}"),
    ("{} a dog", "a dog", "A painting in the style of {}"),
    ("a dog, {}, at night", "a dog, at night", "A painting in the style of {}"),
    ("a baby {} swimming", "a baby swimming", "A painting in the style of {}"),
    # several styles
    ("a house in the style of {a}, {b} and {c}", "a house", "A painting in the style of {a}, {b}, {c}"),
    ("a house in the style of {a} {b}", "a house", "A painting in the style of {a}, {b}"),
    ("a cat by {a}, a dog in the style of {b}", "a cat, a dog", "A painting in the style of {a}, {b}"),
    # an object of one's own
    ("A painting of a {dog} in the style of {gogh}", "A painting of a {dog}", "A painting in the style of {gogh}"),
    ("A painting of a {dog}", "A painting", "A painting in the style of {dog}"),
    # openings
    ("An oil painting of a man in the style of {}", "An oil painting of a man", "An oil painting in the style of {}"),
    ("portrait of a man, by {}", "portrait of a man", "portrait in the style of {}"),
    ("a child's drawing by {}", "a child's drawing", "a child's drawing in the style of {}"),
    ("a bowl of fruit in the style of {}", "a bowl of fruit", "A painting in the style of {}"),
    ("a cat beside a painting of a ship by {}", "a cat beside a painting of a ship", "A painting in the style of {}"),
    # literal braces
    ("a {{curly}} dog in the style of {}", "a {{curly}} dog", "A painting in the style of {}"),
    ("a {{}} by {}", "a {{}}", "A painting in the style of {}"),
    # no style
    ("A drawing of a house, ", "A drawing of a house, ", "A drawing"),
    ("a {{red}} house", "a {{red}} house", "A painting"),
    ("", "", "A painting"),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "context", "style"), WORDINGS)
def test_context_only_and_style_only(prompt, context, style):
    assert prompts.context_only(prompt) == context
    assert prompts.style_only(prompt) == style


PIECES = [
    *"ab ,.()",
    "{}",
    "{x}",
    "{{",
    "}}",
    " in the style of ",
    " by ",
    " style ",
    " and ",
    " the ",
    "a painting of ",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_both_remain_prompts_whatever_is_written(prompt):
    names = [part for part in parse_prompt(prompt) if not isinstance(part, str)]
    context, style = prompts.context_only(prompt), prompts.style_only(prompt)
    left = [part for part in parse_prompt(context) if not isinstance(part, str)]
    shown = [part for part in parse_prompt(style) if not isinstance(part, str)]
    assert sorted(map(str, left + shown)) == sorted(map(str, names)), "each placeholder stands in exactly one of them"
    assert bool(shown) == bool(names)


@pytest.mark.parametrize(
    ("prompt", "versions"),
    [
        ("a {dog|cat} in the style of {}", ["a dog in the style of {}", "a cat in the style of {}"]),
        ("a { red | small  } dog, {gogh}", ["a red dog, {gogh}", "a small dog, {gogh}"]),
        ("a {|red} dog{|, at night} by {}", ["a dog by {}", "a dog, at night by {}", "a red dog by {}",
                                             "a red dog, at night by {}"]),
        ("{big|} {a|b}", ["big a", "big b", "a", "b"]),
        ("{dog|dog} by {}", ["dog by {}"]),
        ("a {{dog|cat}} by {}", ["a {{dog|cat}} by {}"]),
        ("no  alternatives \n by {}", ["no alternatives by {}"]),
        ("{}", ["{}"]),
    ],
)  # fmt: skip
def test_alternatives(prompt, versions):
    assert prompts.expand(prompt) == versions


def test_alternatives_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"lone '\{'"):
        prompts.expand("a {dog|cat")
    with pytest.raises(UserError, match="more than 10000 versions: give fewer"):
        prompts.expand("{a|b}" * 40)
    assert len(prompts.expand(" ".join(["{a|b|c|d|e|f|g|h|i|j}"] * 4))) == 10_000


@given(st.lists(st.sampled_from([*PIECES, "{a|b}", "{|c|d}"]), max_size=5).map("".join))
def test_versions_are_prompts_without_alternatives_and_with_all_placeholders(prompt):
    groups = [name.split("|") for name in prompts.names_in(prompt) if "|" in name]
    names = [name for name in prompts.names_in(prompt) if "|" not in name]
    versions = prompts.expand(prompt)
    assert len(set(versions)) == len(versions) <= math.prod(map(len, groups))
    for version in versions:
        assert prompts.names_in(version) == names
        assert prompts.expand(version) == [version]


def test_the_names_in_a_prompt_and_a_name_for_those_without():
    assert prompts.names_in("a {} by { van gogh }, {{not}} {}") == ["", "van gogh", ""]
    assert prompts.name_placeholder("a {} by {gogh}, {{not}} {}", "wave") == "a {wave} by {gogh}, {{not}} {wave}"
    assert prompts.name_placeholder("a {} by {gogh}", "") == "a {} by {gogh}"


def random_style(name, stages, vectors, width, seed=0):
    return Style(name, np.random.default_rng(seed).standard_normal((stages, vectors, width)))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(0, 999))
def test_joined_tables_show_each_styles_vectors_at_every_timestep(stages_a, stages_b, vectors, t):
    a, b = random_style("a", stages_a, vectors, 4), random_style("b", stages_b, 2, 4, seed=1)
    table = prompts.join_tables({"a": a, "b": b})
    assert table.shape == (np.lcm(stages_a, stages_b), vectors + 2, 4)
    row = table[stage_of(t, len(table))]
    np.testing.assert_array_equal(row[:vectors], a.table[stage_of(t, stages_a)])
    np.testing.assert_array_equal(row[vectors:], b.table[stage_of(t, stages_b)])


def test_splice_replaces_the_marked_positions_only():
    rng = np.random.default_rng(0)
    embeddings, vectors = rng.standard_normal((2, 5, 3)), rng.standard_normal((2, 2, 3))
    slots = np.array([[-1, 0, 1, -1, 0], [1, -1, -1, -1, -1]])
    spliced = prompts.splice(jnp.float32(embeddings), jnp.asarray(slots), jnp.float32(vectors))
    expected = embeddings.copy()
    for b, position in np.argwhere(slots >= 0):
        expected[b, position] = vectors[b, slots[b, position]]
    np.testing.assert_array_equal(spliced, expected.astype(np.float32))
    assert prompts.splice(jnp.bfloat16(embeddings), jnp.asarray(slots), jnp.float32(vectors)).dtype == jnp.bfloat16


def embedding_of(model, word):
    """The mean vector of a word's tokens, from the weights themselves."""
    table = model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    return np.asarray(table)[model.tokenizer.words(word)].mean(0)


def test_vectors_begin_as_words(tiny):
    assert len(tiny.tokenizer.words("zebra")) > 1, "a word of several tokens"
    for word in ("painting", "zebra"):
        table = prompts.initial_table(tiny, word, 3, 2)
        assert (table.shape, table.dtype) == ((3, 2, tiny.text_width), np.float32)
        np.testing.assert_allclose(table, np.broadcast_to(embedding_of(tiny, word), table.shape), rtol=1e-6)
    several = prompts.initial_table(tiny, "painting sea", 2, 3)
    for vector, word in enumerate(("painting", "sea", "sea")):
        np.testing.assert_allclose(several[:, vector], [embedding_of(tiny, word)] * 2, rtol=1e-6)


def states_by_hand(model, prompt, styles, stage_of_style):
    """The text encoder's states of one prompt, with the vectors put among the words one by one."""
    encoder = nnx.merge(model.networks.text_encoder, model.params["text_encoder"])
    tables = np.concatenate([style.table[stage_of_style[name]] for name, style in styles.items()])
    counts = {name: style.vectors for name, style in styles.items()}
    ids, slots = tokenize_with_placeholders(model.tokenizer, prompt, counts)
    embeddings = np.array(encoder.embed_tokens(jnp.asarray(ids)[None])[0])
    for position, slot in enumerate(slots):
        if slot >= 0:
            embeddings[position] = tables[slot]
    return encoder.encode(jnp.asarray(embeddings)[None], jnp.asarray(ids)[None])[0][0]


def test_each_stage_encodes_its_own_vectors(tiny):
    styles = {"gogh": random_style("gogh", 2, 2, tiny.text_width), "sea": random_style("sea", 3, 1, tiny.text_width, 1)}
    texts = ["a house in the style of {gogh}", "{sea} by {gogh}", "a house"]
    conditionings = prompts.encode(tiny, texts, styles)
    assert conditionings.shape == (3, 6, tiny.tokenizer.max_length, tiny.text_width)
    for text, rows in zip(texts, conditionings, strict=True):
        for stage, row in enumerate(rows):
            expected = states_by_hand(tiny, text, styles, {"gogh": stage // 3, "sea": stage // 2})
            np.testing.assert_allclose(row, expected, atol=2e-5)
    np.testing.assert_array_equal(conditionings[2], np.broadcast_to(conditionings[2, :1], conditionings[2].shape))


def test_prompts_without_a_style_are_the_same_in_every_stage_and_without_any_styles_have_one(tiny):
    plain = prompts.encode(tiny, ["a house", ""], {})
    assert plain.shape == (2, 1, tiny.tokenizer.max_length, tiny.text_width)
    encoder = nnx.merge(tiny.networks.text_encoder, tiny.params["text_encoder"])
    np.testing.assert_allclose(plain[:, 0], encoder(jnp.asarray(tiny.tokenizer(["a house", ""])))[0], atol=2e-5)
    beside = prompts.encode(tiny, ["a house", ""], {"gogh": random_style("gogh", 6, 1, tiny.text_width)})
    assert beside.shape[:2] == (2, 6), "so that all prompts of a grid can share one array"
    np.testing.assert_allclose(beside, np.broadcast_to(plain, beside.shape), atol=2e-5)


def test_styles_and_words_are_arguments_of_the_compiled_program(tiny):
    def encode(text, seed):
        return prompts.encode(tiny, [text, ""], {"gogh": random_style("gogh", 6, 1, tiny.text_width, seed)})

    first = encode("a house in the style of {}", 0)
    traces = prompts.encode_ids._cache_size()
    assert not np.array_equal(first, encode("a house in the style of {}", 1))
    assert not np.array_equal(first, encode("{} by the sea", 0))
    assert prompts.encode_ids._cache_size() == traces


def test_unusable_prompts_and_styles_are_refused(tiny):
    style = random_style("gogh", 1, 1, tiny.text_width)
    long = "a house " * tiny.tokenizer.max_length
    for texts, styles, message in [
        (["a house by {}"], {"gogh": random_style("gogh", 1, 1, tiny.text_width + 1)}, "vectors of the style 'gogh'"),
        (["a house by {monet}"], {"gogh": style}, r"unknown style \{monet\}: write one of \{gogh\}"),
        (["a house by {}"], {}, "no style was given"),
        (["a house", long + "by {}"], {"gogh": style}, r"beyond the 24-token window"),
        (["a house by {"], {"gogh": style}, "lone '{'"),
    ]:
        with pytest.raises(UserError, match=message):
            prompts.encode(tiny, texts, styles)


def test_prompts_that_ignore_the_styles_given_are_refused():
    styles = {"gogh": random_style("gogh", 1, 1, 4)}
    with pytest.raises(UserError, match=r"the prompt 'a \{\{\}\} house' has no placeholder: write \{\} where"):
        prompts.require_placeholders(["a house by {}", "a {{}} house"], styles)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompts.require_placeholders(["a house by {}", "a house by {gogh}"], styles)
        prompts.require_placeholders(["a house"], {})
